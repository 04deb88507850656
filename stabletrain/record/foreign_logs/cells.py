"""Numbers as text files write them, and the columns that say when they were logged."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from stabletrain.record.foreign_logs.columns import Place

STEP_NAMES = (  # in the order in which they are preferred
    *("step", "global_step", "trainer/global_step", "_step", "steps", "iteration", "iter", "it", "num_updates"),
    *("update", "updates", "time/total_timesteps", "train/global_step", "batch"),
)
EPOCH_NAMES = ("epoch", "epochs", "train/epoch")
TIME_NAMES = ("time", "timestamp", "_timestamp", "_runtime", "wall time", "wall_time", "walltime", "elapsed")
ABSENT = frozenset({"", "na", "n/a", "none", "null", "-"})
MAX_STEP = 2**53  # beyond, a float is no exact integer


def number_of(cell: Any, decimal_comma: bool = False) -> float | None:
    """Return the number in a cell: `nan`, `NaN`, `inf` and `-Infinity` are numbers, an empty cell is None.

    Raises:
        ValueError: The cell has something else.
    """
    if cell is None:
        return None
    if isinstance(cell, bool | int | float):
        try:
            return float(cell)
        except OverflowError:
            return math.copysign(math.inf, cell)
    if not isinstance(cell, str):
        raise ValueError(cell)
    text = cell.strip()
    if text.lower() in ABSENT:
        return None
    return float(text.replace(",", ".") if decimal_comma else text)


class Clock:
    """Tells from the columns for steps and epochs where a row stands; without a number, it is where the last one was.

    Args:
        names: Names of all columns known so far.
    """

    def __init__(self) -> None:
        self._step = self._epoch = math.nan

    def place(self, row: int, cells: Mapping[str, float | None]) -> Place:
        """Return the place of a row."""
        self._step = _first(cells, STEP_NAMES, self._step)
        self._epoch = _first(cells, EPOCH_NAMES, self._epoch)
        return Place(row, self._step, self._epoch)


def is_clock(name: str) -> bool:
    """Return whether a column says when a row was logged, and nothing about the training."""
    return name.strip().lower() in (*STEP_NAMES, *EPOCH_NAMES, *TIME_NAMES)


def _first(cells: Mapping[str, float | None], names: tuple[str, ...], last: float) -> float:
    for name in names:
        value = cells.get(name)
        if value is not None and math.isfinite(value) and abs(value) < MAX_STEP:
            return value
    return last
