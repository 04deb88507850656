import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager, suppress

import pytest

from stabletrain.tracking.store import ENVIRONMENT, embedded_uri, open_client


@pytest.fixture(scope="session")
def template(tmp_path_factory):
    """An initialised database: MLflow needs seconds to make one."""
    folder = tmp_path_factory.mktemp("template")
    open_client(embedded_uri(folder))
    return folder / "mlflow.db"


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    """Undo what `open_client` sets for its process."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def runs(tmp_path, template):
    """A folder of runs with an embedded store that is set up already."""
    shutil.copy(template, tmp_path / "mlflow.db")
    return tmp_path


@pytest.fixture
def uri(runs):
    return embedded_uri(runs)


@pytest.fixture
def server(tmp_path, template):
    """A function that starts a real server on a port; all are stopped at the end."""
    shutil.copy(template, tmp_path / "server.db")
    with servers(tmp_path) as start:
        yield start


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
        process = subprocess.Popen(
            command,
            env=environment,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=folder,
        )
        started.append(process)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                return process
            time.sleep(0.2)
        raise AssertionError("the server did not come up")

    try:
        yield start
    finally:
        for process in started:
            stop_group(process)


def stop_group(process):
    with suppress(ProcessLookupError):
        os.killpg(process.pid, 9)
    process.wait(10)


@pytest.fixture
def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
