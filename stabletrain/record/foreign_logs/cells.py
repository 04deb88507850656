"""Numbers as text files write them, and the columns that say when they were logged."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from stabletrain.record.foreign_logs.columns import Place
from stabletrain.vocabulary.usual_names import EPOCH_NAMES, STEP_NAMES, TIME_NAMES

ABSENT = frozenset({"", "na", "n/a", "none", "null", "-"})
TENSOR = "tensor("  # with which torch begins a tensor that is written as text
MAX_KINDS = 1000  # of rows, by their columns
MAX_STEP = 2**53  # beyond, a float is no exact integer


def number_of(cell: Any, decimal_comma: bool = False) -> float | None:
    """Return the number in a cell: `nan`, `-Infinity` and `tensor(0.5)` are numbers, an empty cell is None.

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
        raise ValueError(f"no number: {cell!r}")
    text = cell.strip()
    if text.lower() in ABSENT:
        return None
    if text.startswith(TENSOR):
        text = text.removeprefix(TENSOR).partition(",")[0].rstrip(")")
    try:
        return float(text.replace(",", ".") if decimal_comma else text)
    except ValueError:
        raise ValueError(f"no number: {cell!r}") from None


class Clock:
    """Tells from the columns for steps and epochs where a row stands; without a number, where the last one was."""

    def __init__(self) -> None:
        self._step = self._epoch = math.nan
        self._names: dict[tuple[str, ...], tuple[list[str], list[str]]] = {}  # by the columns of a row

    def place(self, row: int, cells: dict[str, float | None]) -> Place:
        """Return the place of a row, and remove from it what says so and nothing about the training."""
        key = tuple(cells)
        if key not in self._names:
            if len(self._names) > MAX_KINDS:
                self._names.clear()
            self._names[key] = _sorted_by(key, STEP_NAMES), _sorted_by(key, EPOCH_NAMES)
        steps, epochs = self._names[key]
        self._step = _first(cells, steps, self._step)
        self._epoch = _first(cells, epochs, self._epoch)
        for name in (*steps, *epochs):
            del cells[name]
        return Place(row, self._step, self._epoch)


def is_clock(name: str) -> bool:
    """Return whether a column says when a row was logged, and nothing about the training."""
    return name.strip().lower() in (*STEP_NAMES, *EPOCH_NAMES, *TIME_NAMES)


def _sorted_by(names: tuple[str, ...], order: tuple[str, ...]) -> list[str]:
    """Return those of the names that are in `order`, whatever their case, in that order."""
    return sorted((name for name in names if name.lower() in order), key=lambda name: order.index(name.lower()))


def _first(cells: Mapping[str, float | None], names: Sequence[str], last: float) -> float:
    for name in names:
        value = cells[name]
        if value is not None and abs(value) < MAX_STEP:  # False for NaN
            return value
    return last
