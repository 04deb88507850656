"""Serve the pages of MLflow and TensorBoard on this machine, until Ctrl-C."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from stabletrain.errors import RequestError, require_range
from stabletrain.tracking.guarded_process import start_guarded, stop_guarded
from stabletrain.tracking.run_links import link_runs as link_runs
from stabletrain.tracking.store import artifact_root, database_of, page_url

HOST = "127.0.0.1"  # neither page asks for a password, so other machines must not reach it
START_TIMEOUT_S = 90.0
POLL_S = 0.5


def serve(
    tracking_uri: str,
    logdir: Path | str,
    *,
    mlflow_port: int = 5000,
    tensorboard_port: int = 6006,
    say: Callable[[str], None] = print,
) -> None:
    """Serve the embedded store and the event files, print both links, and wait for Ctrl-C or SIGTERM.

    Args:
        tracking_uri: The store (see `resolve_tracking_uri`). A server has pages of its own: only its link is printed.
        logdir: The folder that contains the runs.
        mlflow_port: Port of MLflow's page.
        tensorboard_port: Port of TensorBoard's page.
        say: Called with each line to print.

    Raises:
        RequestError: There is no store yet, a port is taken, or a server did not start.
    """
    with tempfile.TemporaryDirectory(prefix="stabletrain-ui-") as shown:
        _serve(tracking_uri, Path(logdir).absolute(), Path(shown), mlflow_port, tensorboard_port, say)


def _serve(
    tracking_uri: str, logdir: Path, shown: Path, mlflow_port: int, tensorboard_port: int, say: Callable[[str], None]
) -> None:
    pages = [_tensorboard_page(shown, tensorboard_port)]
    if (root := artifact_root(tracking_uri)) is None:
        say(f"MLflow       {home_url(page_url(tracking_uri))}")
    else:
        _require_store(tracking_uri)
        pages.insert(0, _mlflow_page(tracking_uri, root, mlflow_port))
    for page in pages:
        _require_free(page)
    link_runs(logdir, shown)
    with _stop_event() as stop, contextlib.ExitStack() as stack:
        for page in pages:
            stack.enter_context(_running(page))
        for page in pages:
            _wait_for_answer(page, stop)
        if not stop.is_set():
            for page in pages:
                say(f"{page.title:<12} {page.link}")
            say("Ctrl-C stops both." if len(pages) > 1 else "Ctrl-C stops it.")
        while not stop.wait(POLL_S):
            link_runs(logdir, shown)
            for page in pages:
                _require_alive(page)


def home_url(base: str) -> str:
    """Return the link to MLflow's experiments, in its mode for training runs."""
    return f"{base}/#/experiments?workflowType=machine_learning"


@dataclass
class _Page:
    title: str
    key: str
    port: int
    command: list[str]
    link: str
    process: subprocess.Popen[bytes] | None = None
    log: IO[bytes] | None = None

    @property
    def address(self) -> str:
        return f"http://{HOST}:{self.port}/"


def _mlflow_page(tracking_uri: str, root: Path, port: int) -> _Page:
    command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", tracking_uri, "--default-artifact-root", root.as_uri()]
    return _Page("MLflow", "ui.mlflow_port", port, command, home_url(f"http://{HOST}:{port}"))


def _tensorboard_page(logdir: Path, port: int) -> _Page:
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(logdir), "--host", HOST, "--port", str(port)]
    return _Page("TensorBoard", "ui.tensorboard_port", port, command, f"http://{HOST}:{port}/")


def _require_store(tracking_uri: str) -> None:
    database = database_of(tracking_uri)
    if not database.is_file():
        raise RequestError(
            f"There is no MLflow store yet: {database} does not exist.",
            key="tracking_uri",
            found=tracking_uri,
            allowed="a store that a training run has written to",
            command="stabletrain train",
        )


def _require_free(page: _Page) -> None:
    require_range(page.key, page.port, 1, 65535)
    if not _is_free(page.port):
        free = next((port for port in range(page.port + 1, min(page.port + 200, 65536)) if _is_free(port)), 0)
        raise RequestError(
            f"The port for {page.title} is taken by another program.",
            key=page.key,
            found=page.port,
            allowed="a free port",
            command=f"stabletrain ui {page.key}={free or _any_free_port()}",
        )


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _any_free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def _running(page: _Page) -> Iterator[None]:
    """Run the server of a page until the block is left, or until this process is killed."""
    environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with tempfile.TemporaryFile() as page.log:
        page.process = start_guarded(page.command, page.log, environment)
        try:
            yield
        finally:
            stop_guarded(page.process)


def _wait_for_answer(page: _Page, stop: threading.Event) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not stop.wait(POLL_S):
        _require_alive(page)
        with contextlib.suppress(OSError), urllib.request.urlopen(page.address, timeout=5):
            return
        if time.monotonic() > deadline:
            raise RequestError(f"{page.title} did not answer within {START_TIMEOUT_S:g} s.\n{_tail(page)}")


def _require_alive(page: _Page) -> None:
    assert page.process is not None
    if page.process.poll() is not None:
        raise RequestError(f"{page.title} stopped with exit code {page.process.returncode}.\n{_tail(page)}")


def _tail(page: _Page, num_lines: int = 8) -> str:
    assert page.log is not None
    page.log.seek(0)
    lines = page.log.read().decode(errors="replace").splitlines()
    return "\n".join(f"  | {line}" for line in lines[-num_lines:])


@contextlib.contextmanager
def _stop_event() -> Iterator[threading.Event]:
    """Yield an event that is set by Ctrl-C and SIGTERM."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {n: signal.signal(n, lambda *_: stop.set()) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
