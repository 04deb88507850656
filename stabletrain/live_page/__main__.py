"""`python -m stabletrain.live_page FOLDER --port PORT`: serve the page on 127.0.0.1 until stopped."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import uvicorn

from stabletrain.live_page.server import make_app

HOST = "127.0.0.1"
NICENESS = 10  # training goes first


def main() -> None:
    """Serve the runs in a folder."""
    parser = argparse.ArgumentParser(prog="python -m stabletrain.live_page")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--only", help="name of the one run to show")
    arguments = parser.parse_args()
    os.nice(NICENESS)
    app = make_app(arguments.folder, arguments.only)
    uvicorn.run(
        app, host=HOST, port=arguments.port, log_level="warning", access_log=False, server_header=False, lifespan="off"
    )


if __name__ == "__main__":
    main()
