"""Robust windows: what is usual, what stands above it, and since when."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Sequence

import numpy as np

WINDOW = 128  # OLMo-core
WARMUP = 64  # OLMo-core
Z_LIMIT = 6.0  # OLMo-core's spike rule
MAD_TO_SIGMA = 1.4826  # of a normal distribution
MIN_SIGMA = 0.05  # decades: below 12% either way nothing is unusual, however quiet the window
LONG = 0.15  # of the steps so far
FLOOR = -45.0  # log10 of float32's smallest subnormal: zero counts as this


def decades(values: np.ndarray) -> np.ndarray:
    """Return log10 of values from 0 on, zero as -45; what is NaN stays so."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.maximum(np.log10(values), FLOOR)


def find_outliers(values: Sequence[float], window: int = WINDOW, warmup: int = WARMUP) -> np.ndarray:
    """Return which values stand more than six robust deviations above the values before them.

    z = (x - median) / max(1.4826·MAD, 0.05) over the last `window` values that were themselves not beyond 6: an
    explosion does not become its own yardstick.

    Args:
        values: Finite numbers in decades (log10).
        window: Number of earlier values to compare with.
        warmup: Values to see before the first verdict.
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
        return False  # nearly always, and cheap
    deviation = MAD_TO_SIGMA * float(np.median(np.abs(np.asarray(ordered) - centre)))
    return (value - centre) / max(deviation, MIN_SIGMA) > Z_LIMIT


def last_stretch(flags: np.ndarray, persistence: float, length: int, gap: int) -> int | None:
    """Return where a condition that holds now began, or None if it does not hold.

    Args:
        flags: Whether it held, look by look.
        persistence: Share of the last looks on which it must have held.
        length: How many last looks; fewer are not enough.
        gap: So many looks in a row without it end a stretch.
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
    """Return the first and last look of a condition that holds now, or held for a seventh of all steps so far.

    What held for so long has cost the training these steps, also if it is over.

    Args:
        steps: Steps of the looks, rising.
        flags: Whether it held, look by look.
        persistence: Share of the last looks on which it must have held to hold now.
        length: How many last looks; a stretch of fewer is none.
        gap: So many looks in a row without it end a stretch.
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
    """Return where the first run of `length` in a row begins, or None."""
    run = 0
    for index, flag in enumerate(flags):
        run = run + 1 if flag else 0
        if run == length:
            return index - length + 1
    return None
