"""Robust windows: outliers against the recent past, and since when a condition holds."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Sequence

import numpy as np

WINDOW = 128  # OLMo-core
WARMUP = 64  # OLMo-core
Z_LIMIT = 6.0  # OLMo-core's spike rule
MAD_TO_SIGMA = 1.4826  # of a normal distribution
MIN_SIGMA = 0.05  # decades: a change below 12% is never unusual, however little the window varies
LONG = 0.15  # of the steps so far: a stretch that counts even when it is over
FLOOR = -45.0  # log10 of the smallest subnormal of float32; stands for log10 of zero


def decades(values: np.ndarray) -> np.ndarray:
    """Return log10 of non-negative values, -45 for zero and NaN for NaN."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.maximum(np.log10(values), FLOOR)


def find_outliers(values: Sequence[float], window: int = WINDOW, warmup: int = WARMUP) -> np.ndarray:
    """Return which values are more than six robust standard deviations above the values before them.

    z = (x - median) / max(1.4826·MAD, 0.05) > 6. Outliers do not enter the window, so that an explosion is not compared
    with itself.

    Args:
        values: Finite numbers in decades (log10).
        window: Number of earlier values to compare with.
        warmup: Number of values before the first can be an outlier.
    """
    recent: deque[float] = deque()
    ordered: list[float] = []
    flags = np.zeros(len(values), bool)
    for i, value in enumerate(values):
        flags[i] = len(recent) >= warmup and _is_beyond(value, ordered)
        if not flags[i]:
            recent.append(value)
            insort(ordered, value)
            if len(recent) > window:
                del ordered[bisect_left(ordered, recent.popleft())]
    return flags


def _is_beyond(value: float, ordered: Sequence[float]) -> bool:
    middle = len(ordered) // 2
    centre = ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
    if value - centre <= Z_LIMIT * MIN_SIGMA:
        return False  # the usual case, without computing the MAD
    deviation = MAD_TO_SIGMA * float(np.median(np.abs(np.asarray(ordered) - centre)))
    return (value - centre) / max(deviation, MIN_SIGMA) > Z_LIMIT


def last_stretch(flags: np.ndarray, persistence: float, length: int, gap: int) -> int | None:
    """Return the index since when a condition has held, or None if it does not hold now.

    Args:
        flags: (T,) whether it held, for each measurement.
        persistence: Fraction of the last `length` measurements on which it must hold to hold now.
        length: Number of last measurements; with fewer the condition does not hold.
        gap: Number of consecutive measurements without it that end a stretch.
    """
    if len(flags) < length or np.mean(flags[-length:]) < persistence:
        return None
    start, misses = len(flags) - 1, 0
    for i in range(len(flags) - 1, -1, -1):
        misses = 0 if flags[i] else misses + 1
        if misses >= gap:
            break
        start = i if flags[i] else start
    return start


def stretch(steps: np.ndarray, flags: np.ndarray, persistence: float, length: int, gap: int) -> tuple[int, int] | None:
    """Return the first and last index of a condition that holds now, or that held for 15% of the steps so far.

    The training has lost these steps even if the condition no longer holds.

    Args:
        steps: (T,) steps of the measurements, increasing.
        flags: (T,) whether the condition held, for each measurement.
        persistence: Fraction of the last `length` measurements on which it must hold to hold now.
        length: Number of last measurements; a shorter stretch does not count.
        gap: Number of consecutive measurements without it that end a stretch.
    """
    start = last_stretch(flags, persistence, length, gap)
    if start is not None:
        return start, len(flags) - 1
    best: tuple[int, int] | None = None
    begin, last, misses = -1, -1, 0
    for i, flag in enumerate([*flags.tolist(), *[False] * gap]):
        if flag:
            begin, last, misses = (i if begin < 0 else begin), i, 0
            continue
        misses += 1
        if begin >= 0 and misses >= gap:
            if best is None or steps[last] - steps[begin] > steps[best[1]] - steps[best[0]]:
                best = begin, last
            begin = -1
    if best is None or best[1] - best[0] + 1 < length:
        return None
    return best if steps[best[1]] - steps[best[0]] >= LONG * (steps[-1] + 1) else None


def first_run(flags: np.ndarray, length: int) -> int | None:
    """Return the index of the first run of `length` consecutive flags, or None."""
    run = 0
    for index, flag in enumerate(flags):
        run = run + 1 if flag else 0
        if run == length:
            return index - length + 1
    return None
