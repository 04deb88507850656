"""Collects the numbers of a log by name in bounded memory, and puts those that the rules read on a common axis."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from stabletrain.record.encoding import FLOAT32_MAX
from stabletrain.record.reader import Series
from stabletrain.vocabulary.metric_names import TRAIN_LOSS
from stabletrain.vocabulary.usual_names import usual_name

MAX_POINTS = 2**17  # of a column; beyond, every other finite one is dropped, and from then on every other one is kept
MAX_OTHERS = 1000  # names that are remembered although no rule reads them
STEPS, EPOCHS, ROWS = AXES = ("step", "epoch", "row")
MAX_RESUMES = 3  # times that the step may go back; a counter that does so more often begins anew with each epoch


@dataclass(frozen=True)
class Place:
    """Where in the log a number stands.

    Attributes:
        row: Index of the row.
        step: Training step; NaN if the log has none.
        epoch: Epoch; NaN if the log has none.
    """

    row: int
    step: float = math.nan
    epoch: float = math.nan


class Column:
    """The numbers of one name.

    Args:
        max_points: Maximum number of points kept.
    """

    def __init__(self, max_points: int = MAX_POINTS) -> None:
        self._max_points = max_points
        self._stride, self._num_seen = 1, 0
        self.rows, self.steps, self.epochs, self.values = array("q"), array("d"), array("d"), array("d")

    def add(self, place: Place, value: float) -> None:
        """Append a number. Those that are not finite, and the last one of the log, are kept in any case."""
        if self._num_seen % self._stride == 0 or not math.isfinite(value):
            self._append(place, value)
            if len(self.rows) > self._max_points:
                self._thin()
        self._num_seen += 1

    def _append(self, place: Place, value: float) -> None:
        self.rows.append(place.row)
        self.steps.append(place.step)
        self.epochs.append(place.epoch)
        self.values.append(value)

    def _thin(self) -> None:
        self._stride *= 2
        keep = np.zeros(len(self.rows), bool)
        keep[::2] = True
        bad = np.flatnonzero(~np.isfinite(np.frombuffer(self.values)))
        keep[bad if len(bad) < self._max_points // 4 else bad[:1]] = True
        for name in ("rows", "steps", "epochs", "values"):
            numbers = getattr(self, name)
            setattr(self, name, array(numbers.typecode, np.frombuffer(numbers, numbers.typecode)[keep].tobytes()))

    def __len__(self) -> int:
        return len(self.rows)

    def on(self, axis: str, scale: int = 1) -> Series:
        """Return the numbers by increasing step, epoch or row; where it went back, the later number counts.

        Args:
            axis: One of `AXES`.
            scale: Factor of the axis.
        """
        at = {STEPS: self.steps, EPOCHS: self.epochs, ROWS: self.rows}[axis]
        steps, values = array("q"), array("d")
        for number, value in zip(at, self.values, strict=True):
            if not math.isfinite(number):
                continue
            step = round(number * scale)
            while steps and steps[-1] >= step:
                steps.pop()
                values.pop()
            steps.append(step)
            values.append(value)
        return Series(steps, values)  # pyright: ignore[reportArgumentType]

    def axis(self) -> str:
        """Return what the numbers can be ordered by: steps if there are some, else epochs, else rows."""
        steps, epochs = np.frombuffer(self.steps), np.frombuffer(self.epochs)
        if len(steps) and np.isfinite(steps).all() and np.count_nonzero(np.diff(steps) < 0) <= MAX_RESUMES:
            return STEPS
        known = len(epochs) > 0 and bool(np.isfinite(epochs).all())
        return EPOCHS if known and (np.diff(epochs) > 0).all() and (epochs == np.round(epochs)).all() else ROWS


class Columns:
    """The columns of a log that the rules read; of all others, the names.

    Args:
        loss: Name of the column that is the training's loss; None to recognize it by its name.
        max_points: Maximum number of points kept of each.
    """

    def __init__(self, loss: str | None = None, max_points: int = MAX_POINTS) -> None:
        self._loss, self._max_points = loss, max_points
        self.found: dict[str, Column] = {}
        self.others: dict[str, None] = {}
        self.num_rows = 0
        self._gaps: dict[str, _Gap] = {}
        self._usual: tuple[str, ...] | None = None  # names in the last row, if another such row changes no gap
        self._last: dict[str, tuple[Place, float]] = {}

    def meaning(self, name: str) -> str | None:
        """Return our name of a column; None if no rule reads it."""
        if self._loss is not None:
            meaning = TRAIN_LOSS if name == self._loss else usual_name(name)
            return None if meaning == TRAIN_LOSS and name != self._loss else meaning
        return usual_name(name)

    def declare(self, names: Iterable[str]) -> None:
        """Remember names that a header lists, though no number may follow."""
        for name in names:
            if self.meaning(name) is None and len(self.others) < MAX_OTHERS:
                self.others.setdefault(name)

    def add(self, name: str, place: Place, value: float) -> None:
        """Add one number."""
        if name not in self.found:
            if name in self.others or self.meaning(name) is None:
                if len(self.others) < MAX_OTHERS:
                    self.others.setdefault(name)
                return
            self.found[name] = Column(self._max_points)
        value = value if not math.isfinite(value) or abs(value) <= FLOAT32_MAX else math.copysign(math.inf, value)
        self.found[name].add(place, value)
        self._last[name] = place, value

    def add_row(self, cells: Mapping[str, float | None], place: Place) -> None:
        """Add a row. Empty cells count as NaN where a column stays empty to the end, see `close`."""
        self.num_rows += 1
        present = tuple(name for name, value in cells.items() if value is not None)
        for name in present:
            self.add(name, place, cells[name])  # pyright: ignore[reportArgumentType]
        if present == self._usual:
            return
        together, is_open = frozenset(present), False
        for name in self.found:
            gap = self._gaps.setdefault(name, _Gap())
            if name in together:
                gap.close(together)
            elif name in cells and gap.fits(together):
                gap.open(place)
            is_open = is_open or gap.num_rows > 0
        self._usual = None if is_open else present

    def close(self, min_gap: int) -> None:
        """Add NaN to the columns that stayed empty to the end although their rows were logged.

        pandas writes NaN as an empty cell, JavaScript as null. An empty cell is also what a row without this metric
        has, such as that of a validation; then the row has other metrics than those that stood beside it before.

        Args:
            min_gap: Number of rows that must be empty.
        """
        for name, (place, value) in self._last.items():  # the last number may have been thinned out
            column = self.found[name]
            if column.rows[-1] != place.row:
                column._append(place, value)
        for name, gap in self._gaps.items():
            if gap.num_rows >= min_gap:
                for place in dict.fromkeys(gap.ends):
                    self.found[name].add(place, math.nan)

    def choose(self) -> dict[str, str]:
        """Return for each of our names the column to read: of several, the one with the most points."""
        chosen: dict[str, str] = {}
        for name, column in self.found.items():
            ours = self.meaning(name)
            assert ours is not None
            if ours not in chosen or len(column) > len(self.found[chosen[ours]]):
                chosen[ours] = name
        return chosen


class _Gap:
    """The rows in which a column has been empty since its last number."""

    def __init__(self) -> None:
        self.beside: frozenset[str] = frozenset()  # names that stood in a row with a number of this column
        self.ends: list[Place] = []  # the first and the last of the rows
        self.num_rows = 0

    def fits(self, present: frozenset[str]) -> bool:
        """Return whether a row has only what stood beside a number of this column before."""
        return bool(self.beside) and present <= self.beside

    def open(self, place: Place) -> None:
        self.ends = [*self.ends[:1], place]
        self.num_rows += 1

    def close(self, present: frozenset[str]) -> None:
        if not present <= self.beside:
            self.beside |= present
        self.ends, self.num_rows = [], 0
