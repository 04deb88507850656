"""Downsample part of a record, while it is read, to the resolution of a picture."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from stabletrain.record.reader import Entry, Record, Scalar, Series, Vector
from stabletrain.vocabulary import metric_names as names

MAX_COLUMNS = 1024  # half of it is kept after thinning: as many as a picture has pixels


@dataclass
class Points:
    """A scalar by step, in 12 bytes per point; the values are of single precision in the event file, too."""

    steps: array[int] = field(default_factory=lambda: array("q"))
    values: array[float] = field(default_factory=lambda: array("f"))


@dataclass
class DownsampledRecord:
    """Keeps the scalars and vectors with certain names at a bounded number of evenly spaced steps.

    Of counts of Inf and NaN it keeps the largest of the steps that it merges, so that none is lost.

    Attributes:
        prefixes: Prefixes of the names to keep.
        max_columns: Largest number of steps to keep.
        scalars: The scalars that are kept.
        vectors: For each name, the arrays that are kept, by step.
    """

    prefixes: tuple[str, ...]
    max_columns: int = MAX_COLUMNS
    scalars: dict[str, Points] = field(default_factory=dict)
    vectors: dict[str, dict[int, np.ndarray]] = field(default_factory=dict)
    _stride: int = 1
    _num_columns: int = 0
    _last_column: int = -1

    @property
    def record(self) -> Record:
        """What is kept, as a record; later entries do not change it."""
        scalars = {name: Series(list(points.steps), list(points.values)) for name, points in self.scalars.items()}
        return Record(scalars=scalars, vectors={name: dict(found) for name, found in self.vectors.items()})

    def take(self, entries: Iterable[Entry]) -> list[Scalar | Vector]:
        """Add the entries of one event; return those with matching names, kept or not."""
        matching = [e for e in entries if isinstance(e, Scalar | Vector) and e.name.startswith(self.prefixes)]
        for entry in matching:
            self._begin_column(entry.step)
            self._take_scalar(entry) if isinstance(entry, Scalar) else self._take_vector(entry)
        return matching

    def copy(self) -> Record:
        """Return a copy of the record so far; later entries do not change it."""
        return self.record

    def frozen(self) -> DownsampledRecord:
        """Return the same as `copy`, in a fraction of the memory: its `record` is made when asked for."""
        scalars = {name: Points(points.steps[:], points.values[:]) for name, points in self.scalars.items()}
        vectors = {name: dict(found) for name, found in self.vectors.items()}
        return DownsampledRecord(self.prefixes, self.max_columns, scalars, vectors)

    def _begin_column(self, step: int) -> None:
        if step >= self._last_column + self._stride:
            self._last_column = step
            self._num_columns += 1
            if self._num_columns > self.max_columns:
                self._thin()

    def _take_scalar(self, entry: Scalar) -> None:
        points = self.scalars.setdefault(entry.name, Points())
        if entry.step == self._last_column and (not points.steps or entry.step > points.steps[-1]):
            points.steps.append(entry.step)
            points.values.append(entry.value)
        elif points.steps and _is_count(entry.name):
            points.values[-1] = max(points.values[-1], entry.value)

    def _take_vector(self, entry: Vector) -> None:
        by_step = self.vectors.setdefault(entry.name, {})
        if entry.step == self._last_column:
            by_step.setdefault(entry.step, entry.values)

    def _thin(self) -> None:
        self._num_columns //= 2
        self._stride = max(2 * self._stride, self._last_column // self._num_columns)
        for name, points in self.scalars.items():
            values = points.values
            if _is_count(name):
                values = array("f", [max(values[i : i + 2]) for i in range(0, len(values), 2) for _ in range(2)])
            points.steps, points.values = points.steps[::2], values[: len(points.steps[::2]) * 2 : 2]
        for name, by_step in self.vectors.items():
            self.vectors[name] = dict(list(by_step.items())[::2])


def _is_count(name: str) -> bool:
    return name.startswith(f"{names.GRADIENT_NONFINITE}/")
