"""A part of the record, thinned while it is read to what a picture can show."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from stabletrain.record.reader import Entry, Record, Scalar, Series, Vector
from stabletrain.vocabulary import metric_names as names

MAX_COLUMNS = 2048  # a picture has fewer pixels


@dataclass
class ThinnedRecord:
    """Keeps what is recorded under some names, at most so many steps of it; a count of Inf and NaN is never hidden.

    Attributes:
        prefixes: How the names begin.
        max_columns: Steps to keep.
        record: What is kept so far.
    """

    prefixes: tuple[str, ...]
    max_columns: int = MAX_COLUMNS
    record: Record = field(default_factory=Record)
    _stride: int = 1
    _num_columns: int = 0
    _last_column: int = -1

    def take(self, entries: Iterable[Entry]) -> list[Scalar | Vector]:
        """Take in the entries of one event; return those that are ours, thinned out or not."""
        ours = [e for e in entries if isinstance(e, Scalar | Vector) and e.name.startswith(self.prefixes)]
        for entry in ours:
            self._begin_column(entry.step)
            self._take_scalar(entry) if isinstance(entry, Scalar) else self._take_vector(entry)
        return ours

    def copy(self) -> Record:
        """Return what is kept so far, as a record of its own."""
        scalars = {k: Series(list(s.steps), list(s.values)) for k, s in self.record.scalars.items()}
        return Record(scalars=scalars, vectors={name: dict(found) for name, found in self.record.vectors.items()})

    def _begin_column(self, step: int) -> None:
        if step >= self._last_column + self._stride:
            self._last_column = step
            self._num_columns += 1
            if self._num_columns > self.max_columns:
                self._thin()

    def _take_scalar(self, entry: Scalar) -> None:
        series = self.record.scalars.setdefault(entry.name, Series())
        if entry.step == self._last_column and (not series.steps or entry.step > series.steps[-1]):
            series.steps.append(entry.step)
            series.values.append(entry.value)
        elif series.steps and _is_count(entry.name):
            series.values[-1] = max(series.values[-1], entry.value)

    def _take_vector(self, entry: Vector) -> None:
        by_step: dict[int, np.ndarray] = self.record.vectors.setdefault(entry.name, {})
        if entry.step == self._last_column:
            by_step.setdefault(entry.step, entry.values)

    def _thin(self) -> None:
        self._num_columns //= 2
        self._stride = max(2 * self._stride, self._last_column // self._num_columns)
        for name, series in self.record.scalars.items():
            values = series.values
            if _is_count(name):
                values = [max(values[i : i + 2]) for i in range(0, len(values), 2) for _ in range(2)]
            series.steps, series.values = series.steps[::2], values[: len(series.steps) * 2 : 2]
        for name, by_step in self.record.vectors.items():
            self.record.vectors[name] = dict(list(by_step.items())[::2])


def _is_count(name: str) -> bool:
    return name.startswith(f"{names.GRADIENT_NONFINITE}/")
