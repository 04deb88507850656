"""Processes beside a benchmark.

A load on the machine only counts; it ends with its block, and with the process that started it.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator

# Ends by itself once its parent has gone, even if that was killed.
BUSY = "import os\nparent = os.getppid()\nwhile os.getppid() == parent:\n    for _ in range(1_000_000): pass\n"


@contextlib.contextmanager
def busy_processes(num: int) -> Iterator[None]:
    """Run `num` busy processes beside the block; each is stopped by its own handle at the end, also after Ctrl-C."""
    processes = [subprocess.Popen([sys.executable, "-S", "-c", BUSY]) for _ in range(num)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()


def stop(process: subprocess.Popen[bytes]) -> None:
    """Stop a process, by SIGKILL if SIGTERM does not do it within half a minute."""
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)
        process.kill()
    process.wait()
