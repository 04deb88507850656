"""Start a local MLflow server; settings of the browser that opens pages."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path

CHROMIUM = Path("/usr/bin/chromium")
CHROMIUM_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]

START_TIMEOUT_S = 150  # on a busy machine, importing MLflow takes a minute


def find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def servers(folder):
    started = []

    def start(port):
        command = [
            sys.executable,
            "-m",
            "mlflow",
            "server",
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            "--workers",
            "1",
        ]
        command += [
            "--backend-store-uri",
            f"sqlite:///{folder / 'server.db'}",
            "--artifacts-destination",
            str(folder / "served"),
        ]
        environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        said = folder / f"server_{len(started)}.txt"
        with said.open("w") as out:
            process = subprocess.Popen(
                command, env=environment, start_new_session=True, stdout=out, stderr=subprocess.STDOUT, cwd=folder
            )
        started.append(process)
        deadline = time.monotonic() + START_TIMEOUT_S
        answer = None
        while time.monotonic() < deadline and process.poll() is None:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                    return process
            except OSError as error:
                answer = error
            time.sleep(0.2)
        raise AssertionError(
            f"the server did not come up: exit code {process.poll()}, last answer {answer!r}, and it said\n"
            + said.read_text()[-4000:]
        )

    try:
        yield start
    finally:
        for process in started:
            stop_group(process)


def stop_group(process):
    with suppress(ProcessLookupError):
        os.killpg(process.pid, 9)
    process.wait(10)
