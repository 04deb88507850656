"""Run many command lines one after another in the same two gloo processes, which take longer to start than a small run.

The processes get the environment of torchrun. `stabletrain.app.cli.main` runs each line in both; the exit codes and
the text on the error stream are written to `<folder>/outcomes.<rank>.json`.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import socket
import subprocess
import sys
import traceback
from pathlib import Path

ROOT = str(Path(__file__).parents[2])


def run_together(folder: Path, lines: list[list[str]], num_processes: int = 2, timeout_s: float = 300) -> list[dict]:
    """Run command lines in `folder`; return for each line {"codes": [one per process], "errors": [texts]}."""
    (folder / "lines.json").write_text(json.dumps(lines))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = [subprocess.Popen(**_process(folder, rank, num_processes, port)) for rank in range(num_processes)]
    try:
        for process in processes:
            process.wait(timeout_s)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    found = [json.loads((folder / f"outcomes.{rank}.json").read_text()) for rank in range(num_processes)]
    return [{"codes": [c for c, _ in line], "errors": [e for _, e in line]} for line in zip(*found, strict=True)]


def _process(folder: Path, rank: int, num_processes: int, port: int) -> dict:
    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": num_processes, "LOCAL_WORLD_SIZE": num_processes}
    group = {"GROUP_RANK": 0, "GROUP_WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    group |= {"TORCHELASTIC_RUN_ID": "test", "OMP_NUM_THREADS": 1}
    added = {name: str(value) for name, value in (places | group).items()}
    path = os.pathsep.join([ROOT, str(Path(__file__).parent)])
    environment = {**os.environ, "PYTHONPATH": path, **added}
    return {
        "args": [sys.executable, __file__, str(folder)],
        "cwd": folder,
        "env": environment,
        "stdout": subprocess.DEVNULL,
    }


def _work(folder: Path) -> None:
    from stabletrain.app.cli import main

    outcomes = []
    for line in json.loads((folder / "lines.json").read_text()):
        errors = io.StringIO()
        try:
            with contextlib.redirect_stderr(errors):
                code = main(line)
        except BaseException:
            code = traceback.format_exc()
        outcomes.append((code, errors.getvalue()))
        (folder / f"outcomes.{os.environ['RANK']}.json").write_text(json.dumps(outcomes))
    os._exit(0)  # with a device mesh, gloo's threads sometimes abort the interpreter's shutdown


if __name__ == "__main__":
    _work(Path(sys.argv[1]))
