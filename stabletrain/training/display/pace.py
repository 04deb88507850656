"""How fast a run is, how much of it is done, and how long the rest takes."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

WINDOW_S = 20.0  # over which the steps a second are averaged


@dataclass(frozen=True)
class Budget:
    """When a run ends.

    Attributes:
        num_steps: Limit on the optimizer's steps; None without one.
        num_epochs: Limit on the epochs; None without one.
        num_batches: Batches of one epoch; None if unknown.
        batches_per_step: Batches whose gradients are accumulated for one step; None where the module steps by itself.
    """

    num_steps: int | None = None
    num_epochs: int | None = None
    num_batches: int | None = None
    batches_per_step: int | None = 1

    @property
    def total_steps(self) -> int | None:
        """Steps of the whole run; None if unknown."""
        limits = [] if self.num_steps is None else [self.num_steps]
        if self.num_epochs and self.num_batches and self.batches_per_step:
            limits.append(self.num_epochs * math.ceil(self.num_batches / self.batches_per_step))
        return min(limits, default=None)

    def share_done(self, step: int, num_batches: int) -> float | None:
        """Return the fraction of the run that is done, 0 to 1; None if its length is unknown.

        Args:
            step: Steps taken so far.
            num_batches: Batches trained so far, in all epochs.
        """
        shares = [step / self.num_steps] if self.num_steps else []
        if self.num_epochs and self.num_batches:
            shares.append(num_batches / (self.num_epochs * self.num_batches))
        return min(1.0, max(shares)) if shares else None


class Pace:
    """Measure steps a second over the last seconds of training, and derive the time left.

    Validation does not count towards steps a second; for the time left, its share of the time so far is added.

    Args:
        clock: Returns seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._start_s = clock()
        self._aside_s = 0.0  # not spent on training
        self._left_at_s: float | None = None
        self._samples: deque[tuple[float, int, float | None]] = deque()  # seconds of training, step, share done

    @property
    def elapsed_s(self) -> float:
        """Seconds since the beginning."""
        return self._clock() - self._start_s

    def leave(self) -> None:
        """Training pauses, for validation."""
        if self._left_at_s is None:
            self._left_at_s = self._clock()

    def come_back(self) -> None:
        """Training goes on."""
        if self._left_at_s is not None:
            self._aside_s += self._clock() - self._left_at_s
            self._left_at_s = None

    def note(self, step: int, share: float | None) -> None:
        """Note how far the run is; the first note should follow the first step, which is slower than the others."""
        seconds = self.elapsed_s - self._aside_s
        self._samples.append((seconds, step, share))
        while len(self._samples) > 2 and seconds - self._samples[1][0] >= WINDOW_S:
            self._samples.popleft()

    @property
    def steps_per_second(self) -> float | None:
        """Steps a second over the window; None before the second note."""
        seconds, steps, _ = self._progress()
        return steps / seconds if seconds > 0 and steps > 0 else None

    @property
    def left_s(self) -> float | None:
        """Seconds until the end of the run; None if unknown."""
        seconds, _, share = self._progress()
        if not share or not seconds or self._samples[-1][2] is None:
            return None
        training_s = max(self._samples[-1][0], 1e-9)
        return (1 - self._samples[-1][2]) / share * seconds * (1 + self._aside_s / training_s)

    def _progress(self) -> tuple[float, int, float]:
        """Return seconds, steps and the share of the run between the first and the last note of the window."""
        if len(self._samples) < 2:
            return 0.0, 0, 0.0
        (start_s, first, before), (end_s, last, after) = self._samples[0], self._samples[-1]
        return end_s - start_s, last - first, (after or 0.0) - (before or 0.0)
