"""What the shipper hears from the training process: that the record has begun, and that training has ended."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterable

BEGIN = "begin"  # the line sent when the record exists
END = "end"  # the line sent when training has ended and its summary is written
CLOSED = "closed"  # no line: the pipe was closed
CHECK_S = 1.0  # between two looks at the process


class TrainingPipe:
    """Reads the lines of the training process in a thread.

    The pipe is closed when the training process exits, also by SIGKILL; then training has ended, too. After `end`, the
    process may still export its best network, and closes the pipe when it has done so.

    Args:
        lines: Lines from the training process.
        has_begun: Whether the record exists already.
    """

    def __init__(self, lines: Iterable[str], *, has_begun: bool = True) -> None:
        self._heard = {BEGIN} if has_begun else set()
        self._news = threading.Condition()
        self._pid = os.getppid()
        threading.Thread(target=self._listen, args=(lines,), daemon=True, name="shipper-input").start()

    @property
    def has_begun(self) -> bool:
        """Whether the record exists."""
        return BEGIN in self._heard

    def wait_for_begin(self) -> bool:
        """Wait until the record exists; return False if training has ended without one."""
        self._wait({BEGIN, END, CLOSED})
        return self.has_begun

    def wait_for_end(self, timeout_s: float) -> bool:
        """Wait at most `timeout_s`; return whether training has ended."""
        return self._wait({END, CLOSED}, timeout_s)

    def wait_for_close(self, timeout_s: float) -> bool:
        """Wait at most `timeout_s`; return whether nothing more will come."""
        return self._wait({CLOSED}, timeout_s)

    def _listen(self, lines: Iterable[str]) -> None:
        with contextlib.suppress(OSError, ValueError):
            for line in lines:
                self._hear(line.strip())
        self._hear(CLOSED)

    def _hear(self, word: str) -> None:
        with self._news:
            self._heard.add(word)
            self._news.notify_all()

    def _wait(self, words: set[str], timeout_s: float = float("inf")) -> bool:
        """Wait for one of the words.

        The process is looked at, too: its own children may hold the pipe open after it is gone.
        """
        deadline = time.monotonic() + timeout_s
        with self._news:
            while not words & self._heard:
                rest = deadline - time.monotonic()
                if rest <= 0:
                    return False
                self._news.wait(min(rest, CHECK_S))
                if os.getppid() != self._pid:
                    self._heard.add(CLOSED)
        return True
