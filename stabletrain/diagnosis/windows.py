"""Robust windows: what is usual, and how far from it a number stands."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from statistics import median

WINDOW = 128  # OLMo-core
WARMUP = 64  # OLMo-core
MAD_TO_SIGMA = 1.4826  # of a normal distribution
MIN_SIGMA = 0.05  # decades: below 12% either way nothing is unusual, however quiet the window


def robust_z_scores(values: Sequence[float], window: int = WINDOW, warmup: int = WARMUP) -> list[float | None]:
    """Return how many robust deviations each value stands above the values before it.

    z = (x - median) / max(1.4826·MAD, 0.05) over the last `window` values that were themselves not beyond 6: an
    explosion does not become its own yardstick.

    Args:
        values: Finite numbers in decades (log10).
        window: Number of earlier values to compare with.
        warmup: Values to see before the first score; None is returned for those.
    """
    past: deque[float] = deque(maxlen=window)
    scores: list[float | None] = []
    for value in values:
        if len(past) < warmup:
            scores.append(None)
            past.append(value)
            continue
        centre = median(past)
        deviation = MAD_TO_SIGMA * median(abs(p - centre) for p in past)
        score = (value - centre) / max(deviation, MIN_SIGMA)
        scores.append(score)
        if score <= 6.0:
            past.append(value)
    return scores
