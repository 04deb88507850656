"""A server that ends with the process that started it, however that process ends.

A process killed by SIGKILL cannot stop its children. So the server runs below a small guard, which reads from a pipe
whose other end only the parent holds: the operating system closes it when the parent is gone, and the guard stops the
server with all of its workers. This needs nothing of the platform but pipes and process groups; Linux's
`PR_SET_PDEATHSIG` would reach the server itself and not the workers that it starts.

As a program, this file is the guard: `python guarded_process.py COMMAND…`. It imports the standard library only.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import IO

STOP_TIMEOUT_S = 5.0


def start_guarded(command: Sequence[str], log: IO[bytes], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a command below a guard, both in a process group of their own; the guard exits with the command's code.

    Args:
        command: The program and its arguments.
        log: Receives everything that it prints.
        environment: Its environment variables.
    """
    return subprocess.Popen(
        [sys.executable, "-I", __file__, *command],
        stdin=subprocess.PIPE,  # never written to: its end says that this process is gone
        stdout=log,
        stderr=subprocess.STDOUT,
        env=environment,
        start_new_session=True,
    )


def stop_guarded(process: subprocess.Popen[bytes]) -> None:
    """Stop the whole process group: SIGTERM first, SIGKILL after `STOP_TIMEOUT_S`."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_TIMEOUT_S)
    if process.stdin is not None:
        process.stdin.close()


def _guard(command: Sequence[str]) -> int:
    """Run the command until it ends, or until the parent is gone; return its exit code."""
    # A handler that does nothing: the group's SIGTERM is for the server, after which the guard ends. Unlike SIG_IGN,
    # a handler is not inherited by the server.
    signal.signal(signal.SIGTERM, lambda *_: None)
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    is_orphan = threading.Event()
    threading.Thread(target=_stop_at_end_of_input, args=(is_orphan,), daemon=True).start()
    code = server.wait()
    if is_orphan.is_set():
        os.killpg(0, signal.SIGKILL)  # workers that outlived the server; nobody else is left to stop them
    return code if code >= 0 else 128 - code  # as a shell reports a signal


def _stop_at_end_of_input(is_orphan: threading.Event) -> None:
    while os.read(sys.stdin.fileno(), 1024):
        pass
    is_orphan.set()
    os.killpg(0, signal.SIGTERM)
    time.sleep(STOP_TIMEOUT_S)
    os.killpg(0, signal.SIGKILL)  # the server did not end in time


if __name__ == "__main__":
    sys.exit(_guard(sys.argv[1:]))
