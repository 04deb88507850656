"""Run a command in a pseudo-terminal."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import struct
import subprocess
import termios
from collections.abc import Mapping, Sequence
from pathlib import Path


def run_in_terminal(
    command: Sequence[str], folder: Path, environment: Mapping[str, str], width: int = 100, height: int = 30
) -> tuple[int, str]:
    """Return the exit code of a command and everything it sent to its terminal."""
    outside, inside = pty.openpty()
    fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
    process = subprocess.Popen(command, cwd=folder, env=environment, stdin=inside, stdout=inside, stderr=inside)
    os.close(inside)
    output = b""
    with contextlib.suppress(OSError):  # Linux reports a terminal whose last user has left as an error
        while chunk := os.read(outside, 65536):
            output += chunk
    os.close(outside)
    return process.wait(), output.decode()
