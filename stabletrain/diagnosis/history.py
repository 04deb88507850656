"""Collects the measurements of a run in bounded memory, during the run or from its record, with equal results."""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from stabletrain.diagnosis.observations import About, Observations, Series, Table, Waves
from stabletrain.signal.layer_statistics import LayerStatistics, Measures
from stabletrain.signal.snapshot import Snapshot
from stabletrain.vocabulary import metric_names as names
from stabletrain.vocabulary.notice import Notice, join
from stabletrain.vocabulary.signals import GRADIENT, WEIGHT

PARAMETERS = (GRADIENT, WEIGHT)  # signals that are measured on parameters
FLOAT32_MAX = float(np.finfo(np.float32).max)
MAX_ROWS = 4096  # of a table; beyond, every other row is dropped, and from then on every other one is kept
ROUNDED_TOGETHER = 64  # rows: one at a time, rounding cost more than everything else here (docs/LOG.md)


class Rows:
    """Rows of numbers by step, in float32. Beyond `max_rows`, only every 2nd, 4th, … row is kept.

    Which rows are kept depends on their count alone, so that a replay keeps the same ones.
    """

    def __init__(self, max_rows: int = MAX_ROWS) -> None:
        self.max_rows = max_rows
        self.stride = 1
        self.num_seen = 0
        self.steps: list[int] = []
        self._rows: list[np.ndarray] = []
        self._num_rounded = 0

    def add(self, step: int, row: np.ndarray) -> None:
        """Append a row. A step at or before the last one (after a resume or rollback) replaces the rows from there on.

        The array is kept, not copied: it must not change.
        """
        while self.steps and self.steps[-1] >= step:
            self.steps.pop()
            self._rows.pop()
            self._num_rounded = min(self._num_rounded, len(self._rows))
        if self.num_seen % self.stride == 0:
            self.steps.append(step)
            self._rows.append(row)
            if len(self._rows) > self.max_rows:
                self.steps, self.stride = self.steps[::2], 2 * self.stride
                self.rows = [*np.array(self.rows[::2])]  # copied: rows that were rounded together share memory
            elif len(self._rows) >= self._num_rounded + ROUNDED_TOGETHER:
                self._round()
        self.num_seen += 1

    @property
    def rows(self) -> list[np.ndarray]:
        """The rows in float32."""
        self._round()
        return self._rows

    @rows.setter
    def rows(self, rows: list[np.ndarray]) -> None:
        self._rows, self._num_rounded = rows, len(rows)

    def _round(self) -> None:
        first = self._num_rounded
        if first < len(self._rows):
            with np.errstate(over="ignore"):  # values beyond float32 become Inf
                self._rows[first:] = np.array(self._rows[first:]).astype(np.float32)
            self._num_rounded = len(self._rows)

    def stacked(self, num_columns: int) -> tuple[np.ndarray, np.ndarray]:
        """Return steps (T,) and values (T, num_columns) in float64."""
        values = np.stack(self.rows) if self._rows else np.empty((0, num_columns), np.float32)
        return np.array(self.steps, np.int64), values.astype(np.float64)


class History:
    """Collects the measurements of a run. Numbers are rounded to float32, as in the record.

    Args:
        about: What is known of the run beside its measurements.
        max_rows: Maximum number of rows kept of each table.
    """

    def __init__(self, about: About | None = None, max_rows: int = MAX_ROWS) -> None:
        self.about = about or About()
        self._max_rows = max_rows
        self._layers: dict[tuple[str, str], tuple[str, ...]] = {}  # (field, signal): names of the columns
        self._rows: dict[tuple[str, str], Rows] = {}
        self._scalars: dict[str, tuple[array, array]] = {}
        self._num_nonfinite: dict[str, int] = {}
        self._notices: tuple[Notice, ...] = ()

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of all parameters measured so far."""
        seen = {layer for (_, signal), layers in self._layers.items() if signal in PARAMETERS for layer in layers}
        return tuple(sorted(seen))

    def add_snapshot(self, snapshot: Snapshot) -> None:
        """Add the statistics of all signals on one step."""
        for signal, layers in {GRADIENT: snapshot.layers, **snapshot.signals}.items():
            measures = Measures.of([*layers]) if not isinstance(layers, Measures) else layers
            if len(measures):
                self.add("rms", signal, snapshot.step, measures.layers, measures.arrays.rms)
                self.add("nonfinite", signal, snapshot.step, measures.layers, measures.arrays.num_nonfinite)
        for kind, shares in getattr(snapshot, "units", {}).items():
            if shares:
                self.add_units(snapshot.step, kind, shares)

    def add_units(self, step: int, kind: str, shares: Mapping[str, float]) -> None:
        """Add the fraction of `dead`, `saturated` or `equal` units by layer."""
        self.add("units", kind, step, tuple(shares), np.array(list(shares.values())))

    def add_time(self, step: int, layer: str, norms: np.ndarray) -> None:
        """Add ‖∂L/∂h_t‖ of a recurrent layer; a sequence of another length discards the earlier ones."""
        columns = tuple(map(str, range(len(norms))))
        key = ("time", layer)
        if self._layers.get(key, columns) != columns:
            del self._rows[key], self._layers[key]
        self.add(*key, step, columns, norms)

    def add_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Add scalars of one step; all are kept. Non-finite ones are counted as `<signal>/nonfinite`."""
        for name, value in finite_scalars(scalars, self._num_nonfinite).items():
            steps, values = self._scalars.setdefault(name, (array("q"), array("f")))
            while steps and steps[-1] >= step:
                steps.pop()
                values.pop()
            steps.append(step)
            values.append(value)

    def add_notice(self, notice: Notice) -> None:
        """Add what was seen during training; a notice of the same kind and layer extends the earlier one."""
        self._notices = join(self._notices, notice)

    def observations(self) -> Observations:
        """Return everything collected so far."""
        found: dict[str, dict[str, Table]] = {"rms": {}, "nonfinite": {}, "units": {}}
        time: dict[str, Waves] = {}
        for (name, signal), rows in self._rows.items():
            layers = self._layers[name, signal]
            steps, values = rows.stacked(len(layers))
            if name == "time":
                time[signal] = Waves(steps, values)
            else:
                found[name][signal] = Table(steps, layers, values)
        scalars = {
            name: Series(np.array(steps, np.int64), np.array(values, np.float64))
            for name, (steps, values) in self._scalars.items()
        }
        return Observations(**found, time=time, scalars=scalars, notices=self._notices, about=self.about)

    def add_rows(
        self, name: str, signal: str, steps: Sequence[int], layers: tuple[str, ...], values: np.ndarray,
        *, stride: int = 1, num_seen: int | None = None,
    ) -> None:  # fmt: skip
        """Add a whole table, which may have been thinned as `Rows` does.

        Args:
            name: `rms`, `nonfinite` or `units`.
            signal: The signal, or the kind of share.
            steps: (T,) increasing.
            layers: Names of the columns, L in forward order.
            values: (T, L).
            stride: Every how many-th of the recorded rows is here.
            num_seen: Number of rows recorded; T if None.
        """
        assert len(steps) <= self._max_rows, (len(steps), self._max_rows)
        rows = Rows(self._max_rows)
        rows.steps, rows.rows = [int(step) for step in steps], [*np.asarray(values, np.float32)]
        rows.stride, rows.num_seen = stride, len(steps) if num_seen is None else num_seen
        self._layers[name, signal], self._rows[name, signal] = layers, rows

    def add_series(self, name: str, steps: Sequence[int], values: Sequence[float]) -> None:
        """Add a scalar of many steps, in increasing order."""
        found = np.asarray(values, np.float64)
        if name in self._scalars or not (np.abs(found) <= FLOAT32_MAX).all():
            for step, value in zip(steps, values, strict=True):
                self.add_scalars(int(step), {name: float(value)})
        elif len(found):
            self._scalars[name] = array("q", steps), array("f", found.astype(np.float32).tobytes())

    def add(self, name: str, signal: str, step: int, layers: Sequence[str], values: np.ndarray) -> None:
        """Add one row of a table: `rms` or `nonfinite` of a signal, or `units` of one kind of share."""
        key = (name, signal)
        known = self._layers.get(key)
        if known is None:
            known = self._layers[key] = tuple(layers)
            self._rows[key] = Rows(self._max_rows)
        rows = self._rows[key]
        if layers is not known and tuple(layers) != known:
            values, self._layers[key] = _join(known, tuple(layers), np.asarray(values, np.float64), rows)
        rows.add(step, values)


def finite_scalars(scalars: Mapping[str, float], num_nonfinite: dict[str, int]) -> dict[str, float]:
    """Return scalars as the record keeps them: those finite in float32, and counts of the others by signal."""
    kept = {name: value for name, value in scalars.items() if abs(value) <= FLOAT32_MAX}
    for name in [name for name, value in scalars.items() if not math.isfinite(value)]:
        signal = names.nonfinite_of(name)
        num_nonfinite[signal] = num_nonfinite.get(signal, 0) + 1
        kept[signal] = num_nonfinite[signal]
    return kept


def total_norm(layers: Sequence[LayerStatistics]) -> float | None:
    """Return the 2-norm over all layers; None if an element is not finite, or without layers."""
    measures = Measures.of(layers)
    if not len(measures) or measures.arrays.num_nonfinite.any():
        return None
    rms = measures.arrays.rms
    largest = float(np.fmax.reduce(rms))
    if not largest > 0:  # all zero or empty
        return 0.0
    if math.isinf(largest):
        return None
    squares = (rms / largest) ** 2 * measures.sizes  # no overflow, no underflow of all; NaN for empty tensors
    total = float(np.add.reduce(squares))
    norm = largest * math.sqrt(float(np.nansum(squares)) if math.isnan(total) else total)
    return norm if math.isfinite(norm) else None


def _join(known: tuple[str, ...], layers: tuple[str, ...], values: np.ndarray, rows: Rows) -> tuple[np.ndarray, tuple]:
    """Return a row with the columns of both, and their names; earlier rows get NaN in new columns."""
    new = tuple(layer for layer in layers if layer not in set(known))
    if new:
        rows.rows = [np.concatenate([row, np.full(len(new), np.nan, np.float32)]) for row in rows.rows]
    together = tuple(sorted(known + new))  # the index in a layer's name is its position in forward order
    if together != known + new:
        order = [(known + new).index(layer) for layer in together]
        rows.rows = [row[order] for row in rows.rows]
    by_layer = dict(zip(layers, values, strict=True))
    return np.array([by_layer.get(layer, np.nan) for layer in together]), together


def save(observations: Observations, path: Path | str) -> None:
    """Write observations as one npz file."""
    arrays: dict[str, np.ndarray] = {"about": np.array(json.dumps(asdict(observations.about)))}
    if observations.notices:
        arrays["notices"] = np.array(json.dumps([notice.to_dict() for notice in observations.notices]))
    for name in ("rms", "nonfinite", "units"):
        for key, table in getattr(observations, name).items():
            arrays[f"{name}|{key}|steps"], arrays[f"{name}|{key}|layers"] = table.steps, np.array(table.layers)
            arrays[f"{name}|{key}|values"] = table.values.astype(np.float32)
    for name in ("time", "scalars"):
        for key, found in getattr(observations, name).items():
            arrays[f"{name}|{key}|steps"] = found.steps
            arrays[f"{name}|{key}|values"] = found.values.astype(np.float32)
    np.savez_compressed(path, **arrays)  # pyright: ignore[reportArgumentType]


def load(path: Path | str) -> Observations:
    """Read what `save` wrote."""
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    about = About(**json.loads(str(arrays.pop("about"))))
    notices = tuple(Notice(**fields) for fields in json.loads(str(arrays.pop("notices", "[]"))))
    found: dict[str, dict] = {"rms": {}, "nonfinite": {}, "units": {}, "time": {}, "scalars": {}}
    for place in dict.fromkeys(name.rpartition("|")[0] for name in arrays):  # in the order in which they were saved
        name, _, key = place.partition("|")
        steps, values = arrays[f"{place}|steps"], arrays[f"{place}|values"].astype(np.float64)
        if name in ("time", "scalars"):
            found[name][names.current_name(key)] = Waves(steps, values) if name == "time" else Series(steps, values)
        else:
            found[name][key] = Table(steps, tuple(map(str, arrays[f"{place}|layers"])), values)
    return Observations(**found, notices=notices, about=about)
