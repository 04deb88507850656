"""Write the host's own pip settings as a pip.conf for a build in a container, and serve the folders that they name.

usage: python pip_secret.py PIP.CONF (serves on a free port of 127.0.0.1 until it is ended)
"""

import functools
import http.server
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import unquote, urlsplit

KEYS = ("index-url", "extra-index-url", "find-links", "trusted-host", "timeout", "default-timeout")


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None: ...


def settings() -> dict[str, str]:
    """Return what pip was told in files and in the environment, the latter last."""
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True)
    found = {}
    for line in listed.stdout.splitlines():
        name, _, value = line.partition("=")
        key = name.rpartition(".")[2].replace("_", "-")
        if key in KEYS:
            found["timeout" if key == "default-timeout" else key] = value.strip().strip("'\"").replace("\\n", " ")
    return found


def main(target: Path) -> None:
    root = Path(tempfile.mkdtemp())
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(root)))

    def reachable(place: str) -> str:
        """Return the address of a local folder on our server."""
        parts = urlsplit(place)
        if parts.scheme not in ("", "file"):
            return place
        path = Path(unquote(parts.path))
        link = root / str(len(list(root.iterdir())))
        is_index = path.name == "simple"  # whose pages link to what lies beside it
        link.symlink_to(path.parent if is_index else path)
        return f"http://127.0.0.1:{server.server_port}/{link.name}/{path.name + '/' if is_index else ''}"

    lines = ["[global]"]
    for key, value in settings().items():
        places = value.split()
        lines.append(f"{key} = {' '.join(map(reachable, places)) if key in KEYS[:3] else value}")
    target.write_text("\n".join([*lines, ""]))
    server.serve_forever()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
