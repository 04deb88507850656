"""Run a command and measure what it costs, further processes included."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Run:
    """What a run took.

    Attributes:
        train_s: Seconds of the training.
        train_cpu_s: CPU seconds of the training, of all threads of its process.
        command_s: Seconds of the whole command.
        command_cpu_s: CPU seconds of the whole command and of the processes that it started and waited for.
        loss: The last validation loss.
    """

    train_s: float
    train_cpu_s: float
    command_s: float
    command_cpu_s: float
    loss: float


def run(command: list[str], folder: Path, num_threads: int, in_terminal: bool = False) -> Run:
    """Run a command with `num_threads` threads in `folder`, in a terminal of its own on request.

    Raises:
        RuntimeError: It failed.
    """
    times, log = folder / "times.json", folder / "output.txt"
    paths = [str(HERE.parent), str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {
        "OMP_NUM_THREADS": str(num_threads),
        "PYTHONPATH": os.pathsep.join(paths),
        "WHOLE_RUN_TIMES": str(times),
    }
    start = time.perf_counter()
    with log.open("wb") as file:
        code, cpu_s = _run(command, folder, environment, file, in_terminal)
    seconds = time.perf_counter() - start
    if code or not times.is_file():
        print(log.read_text(errors="replace"), file=sys.stderr)
        raise RuntimeError(f"{' '.join(command)} ended with exit code {code}")
    return Run(**json.loads(times.read_text()), command_s=seconds, command_cpu_s=cpu_s)


def _run(command: list[str], folder: Path, environment: dict[str, str], file, in_terminal: bool) -> tuple[int, float]:
    """Return the exit code and the CPU seconds; the output goes to `file`."""
    if not in_terminal:
        return _wait(subprocess.Popen(command, cwd=folder, env=environment, stdout=file, stderr=file))
    ours, theirs = pty.openpty()
    environment = environment | {"TERM": "xterm-256color", "COLUMNS": "120", "LINES": "40"}
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=theirs, stderr=theirs)
    os.close(theirs)
    reader = threading.Thread(target=_copy, args=(ours, file))
    reader.start()
    found = _wait(process)
    reader.join()
    os.close(ours)
    return found


def _copy(terminal: int, file) -> None:
    try:
        while data := os.read(terminal, 2**16):
            file.write(data)
    except OSError:  # Linux's answer once nobody holds the other end
        pass


def _wait(process: subprocess.Popen) -> tuple[int, float]:
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, usage.ru_utime + usage.ru_stime
