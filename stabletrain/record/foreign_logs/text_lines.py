"""Reads a text file line by line, whatever its length."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

MAX_LINE = 2**20  # bytes; a longer line is no row of a log


def lines_of(path: Path) -> Iterator[str]:
    """Yield the lines of a text file without their ends; one that is too long is cut off."""
    with path.open("rb") as file:
        is_rest = False
        while line := file.readline(MAX_LINE):
            if not is_rest:
                yield line.decode("utf-8-sig", errors="replace").rstrip("\r\n")
            is_rest = not line.endswith(b"\n")
