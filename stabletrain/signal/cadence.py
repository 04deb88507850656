"""On which steps to measure."""

from __future__ import annotations

import math


def is_due(step: int, every: int) -> bool:
    """Return whether something that is done every `every` steps is due on `step`.

    It is due on the first step, which shows the initialization, and then on the last of every `every` steps: 0,
    every-1, 2*every-1, … These are the steps on which Lightning logs with `log_every_n_steps=every`.

    Args:
        step: Number of optimizer steps done before this one, from 0.
        every: Steps between two measurements; 0 means never.
    """
    return every > 0 and (step == 0 or (step + 1) % every == 0)


def is_due_by_decade(step: int, points: int) -> bool:
    """Return whether a measurement that is made `points` times per decade of steps is due on `step`.

    Measurements are frequent early in training, where most changes, and rare later. They are due where step + 1 equals
    10**(k/points), rounded, for an integer k. With 20 points, that is every step up to 8, and 110 measurements in the
    first million steps.

    Args:
        step: Number of optimizer steps done before this one, from 0.
        points: Measurements per decade; 0 means never.
    """
    if points <= 0:
        return False
    place = points * math.log10(step + 1)
    return any(round(10 ** (k / points)) == step + 1 for k in (math.floor(place), math.ceil(place), round(place)))
