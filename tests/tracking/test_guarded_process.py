"""Servers and their workers end with the process that started them, even if that is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from stabletrain.tracking.guarded_process import start_guarded, stop_guarded

# A server that starts a worker, as MLflow does; `stubborn` ones ignore SIGTERM.
SERVER = """
import signal, subprocess, sys, time
if "stubborn" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if "worker" not in sys.argv:
    subprocess.Popen([sys.executable, *sys.orig_argv[1:], "worker"])
time.sleep(600)
"""
PARENT = """
import sys, time
from stabletrain.tracking import page_servers
pages = [page_servers._Page("Page", "key", 1, [sys.executable, "-c", *sys.argv[1:]], "link") for _ in range(2)]
with page_servers._running(pages[0]), page_servers._running(pages[1]):
    print("running", flush=True)
    time.sleep(600)
"""


def is_alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def wait_for_no_one(processes: list[psutil.Process], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while alive := [process for process in processes if is_alive(process)]:
        assert time.monotonic() < deadline, alive
        time.sleep(0.05)


def descendants(pid: int, count: int) -> list[psutil.Process]:
    deadline = time.monotonic() + 60
    while len(found := psutil.Process(pid).children(recursive=True)) < count:
        assert time.monotonic() < deadline, found
        time.sleep(0.05)
    return found


@pytest.mark.parametrize("manner", ["obedient", "stubborn"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_parent_that_is_killed_leaves_no_process_behind(manner: str, number: int):
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", PARENT, SERVER, manner]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "running\n"
        processes = descendants(parent.pid, 2 * 3)  # a guard, a server and a worker for each of two pages
        assert all(map(is_alive, processes))
        parent.send_signal(number)
        parent.wait(30)
    wait_for_no_one(processes, 3 if manner == "obedient" else 20)


def test_the_guard_ends_with_the_exit_code_of_the_server_and_passes_on_its_output():
    with tempfile.TemporaryFile() as log:
        process = start_guarded([sys.executable, "-c", "print('said'); raise SystemExit(7)"], log, os.environ)
        assert process.wait(60) == 7
        log.seek(0)
        assert log.read() == b"said\n"
        stop_guarded(process)


def test_stopping_ends_the_server_and_its_worker():
    with tempfile.TemporaryFile() as log:
        process = start_guarded([sys.executable, "-c", SERVER], log, os.environ)
        processes = [psutil.Process(process.pid), *descendants(process.pid, 2)]
        stop_guarded(process)
        wait_for_no_one(processes, 3)
        assert process.returncode == 128 + signal.SIGTERM
