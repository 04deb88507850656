"""Serve MLflow, TensorBoard and the live page on this machine, until Ctrl-C."""

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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import quote

from stabletrain.errors import RequestError, require_range
from stabletrain.tracking.guarded_process import start_guarded, stop_guarded
from stabletrain.tracking.run_links import link_runs
from stabletrain.tracking.store import artifact_root, database_of, page_url

HOST = "127.0.0.1"  # none of the pages asks for a password, so other machines must not reach them
START_TIMEOUT_S = 90.0
POLL_S = 0.5
RUN_PAGE = "run"  # as in `live_page.server`


def serve(
    tracking_uri: str,
    logdir: Path | str,
    *,
    mlflow_port: int = 5000,
    tensorboard_port: int = 6006,
    live_port: int = 6007,
    only: str | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Serve the embedded store, the event files and the live page, print the links, and wait for Ctrl-C or SIGTERM.

    Args:
        tracking_uri: The store (see `resolve_tracking_uri`). A server has pages of its own: only its link is printed.
            Without a store, the other pages are served.
        logdir: The folder that contains the runs.
        mlflow_port: Port of MLflow's page.
        tensorboard_port: Port of TensorBoard's page.
        live_port: Port of the live page.
        only: Name of the one run to show in TensorBoard and on the live page; None for all.
        say: Called with each line to print.

    Raises:
        RequestError: A port is taken, or a server did not start.
    """
    logdir = Path(logdir).absolute()
    with tempfile.TemporaryDirectory(prefix="stabletrain-ui-") as folder:
        shown = Path(folder)
        pages = [_live_page(logdir, live_port, only), _tensorboard_page(shown, tensorboard_port)]
        root = artifact_root(tracking_uri)
        if root is None:
            say(f"MLflow       {home_url(page_url(tracking_uri))}")
        elif database_of(tracking_uri).is_file():
            pages.append(_mlflow_page(tracking_uri, root, mlflow_port))
        else:
            say(f"MLflow has no store yet: no run has written to {database_of(tracking_uri)}.")
        for page in pages:
            _require_free(page)
        _serve(pages, lambda: link_runs(logdir, shown, only), say)


def _serve(pages: Sequence[_Page], look: Callable[[], None], say: Callable[[str], None]) -> None:
    """Run the servers, and call `look` from time to time, until stopped."""
    look()
    with _stop_event() as stop, contextlib.ExitStack() as stack:
        for page in pages:
            stack.enter_context(_running(page))
        for page in pages:
            _wait_for_answer(page, stop)
            if not stop.is_set():
                say(f"{page.title:<12} {page.link}")
        if not stop.is_set():
            say("Ctrl-C stops them.")
        while not stop.wait(POLL_S):
            look()
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


def _live_page(logdir: Path, port: int, only: str | None) -> _Page:
    command = [sys.executable, "-m", "stabletrain.live_page", str(logdir), "--port", str(port)]
    link = f"http://{HOST}:{port}/"
    if only:
        command, link = [*command, f"--only={only}"], f"{link}{RUN_PAGE}/{quote(only)}"
    return _Page("Live page", "ui.live_port", port, command, link)


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
