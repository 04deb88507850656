"""Downsample part of a record, while it is read, to the resolution of a picture."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from stabletrain.record.reader import Entry, Record, Scalar, Series, Vector
from stabletrain.vocabulary import metric_names as names

MAX_COLUMNS = 2048  # more than a picture has pixels


@dataclass
class DownsampledRecord:
    """Keeps the scalars and vectors with certain names at a bounded number of evenly spaced steps.

    Of counts of Inf and NaN it keeps the largest of the steps that it merges, so that none is lost.

    Attributes:
        prefixes: Prefixes of the names to keep.
        max_columns: Largest number of steps to keep.
        record: The downsampled record so far.
    """

    prefixes: tuple[str, ...]
    max_columns: int = MAX_COLUMNS
    record: Record = field(default_factory=Record)
    _stride: int = 1
    _num_columns: int = 0
    _last_column: int = -1

    def take(self, entries: Iterable[Entry]) -> list[Scalar | Vector]:
        """Add the entries of one event; return those with matching names, kept or not."""
        matching = [e for e in entries if isinstance(e, Scalar | Vector) and e.name.startswith(self.prefixes)]
        for entry in matching:
            self._begin_column(entry.step)
            self._take_scalar(entry) if isinstance(entry, Scalar) else self._take_vector(entry)
        return matching

    def copy(self) -> Record:
        """Return a copy of the record so far; later entries do not change it."""
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
