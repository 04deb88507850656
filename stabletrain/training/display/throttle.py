"""Decide when to draw: at bounded intervals, and for a bounded share of the time."""

from __future__ import annotations

import time
from collections.abc import Callable

MAX_SHARE = 0.01  # of the time, for drawing
MAX_PAUSE_S = 2.0  # so that the picture moves even where drawing is slow


class Throttle:
    """Say when the next drawing is due.

    A drawing of t seconds is followed by a pause of at least t / `MAX_SHARE`, up to `MAX_PAUSE_S`. On every step, a
    caller compares `clock()` with `next_s` itself, which costs a tenth of a microsecond.

    Args:
        pause_s: Shortest pause between two drawings.
        clock: Returns seconds.

    Attributes:
        next_s: When the next drawing is due, on the clock.
    """

    __slots__ = ("clock", "next_s", "pause_s")

    def __init__(self, pause_s: float, clock: Callable[[], float] = time.perf_counter) -> None:
        self.pause_s = pause_s
        self.clock = clock
        self.next_s = 0.0

    def drawn(self, start_s: float) -> None:
        """Note that a drawing that began at `start_s` has just ended."""
        now = self.clock()
        self.next_s = now + max(self.pause_s, min(MAX_PAUSE_S, (now - start_s) / MAX_SHARE))

    def wait(self, pause_s: float) -> None:
        """Draw nothing during the next `pause_s` seconds."""
        self.next_s = self.clock() + pause_s
