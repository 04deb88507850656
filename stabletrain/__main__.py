"""`python -m stabletrain`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line and exit with its code."""
    from stabletrain.app.cli import main as run
    from stabletrain.app.lean_start import lean_imports
    from stabletrain.app.openmp_environment import wait_asleep

    wait_asleep()
    lean_imports.install()
    sys.exit(run())


if __name__ == "__main__":
    main()
