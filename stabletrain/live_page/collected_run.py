"""Collects the record of a run piece by piece, in memory that does not grow with its length."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from stabletrain.diagnosis.history import History
from stabletrain.diagnosis.observations import Observations, Table
from stabletrain.diagnosis.recorded_run import about_of
from stabletrain.record.glance import is_replaced, sizes_of
from stabletrain.record.reader import Entry, Info, LayerHistogram, Position, Record, Scalar, Series, read_entries
from stabletrain.signal.histogram import Histogram
from stabletrain.vocabulary import metric_names as names
from stabletrain.vocabulary.signals import GRADIENT, UPDATE, WEIGHT

MAX_HISTOGRAMS = 10_000  # of a signal, each of 1 kB
MIN_FRAMES, MAX_FRAMES = 8, 32  # steps with histograms
MAX_ROWS = 800  # of a table that is drawn: twice the columns of a heatmap


class Frames:
    """Histograms of all layers at evenly spaced steps, and at the last step that had some."""

    def __init__(self) -> None:
        self.by_step: dict[int, dict[str, Histogram]] = {}
        self._stride, self._num_seen = 1, 0

    def add(self, step: int, layer: str, histogram: Histogram) -> None:
        """Add the histogram of one layer; steps increase, or go back when a run is resumed."""
        if step not in self.by_step:
            self._begin(step)
        self.by_step[step][layer] = Histogram(histogram.counts.astype(np.int32))

    def _begin(self, step: int) -> None:
        steps = [s for s in self.by_step if s < step]
        if len(steps) < len(self.by_step):  # a resumed run goes back
            self._num_seen = len(steps) * self._stride
        elif self._num_seen and (self._num_seen - 1) % self._stride:
            steps.pop()  # it was kept as the last one only
        width = max(map(len, self.by_step.values()), default=1)
        if len(steps) >= min(max(MAX_HISTOGRAMS // width, MIN_FRAMES), MAX_FRAMES):
            steps, self._stride = steps[::2], 2 * self._stride
        self.by_step = {s: self.by_step[s] for s in steps} | {step: {}}
        self._num_seen += 1

    def by_layer(self) -> dict[str, dict[int, Histogram]]:
        """Return the histograms by layer and step."""
        found: dict[str, dict[int, Histogram]] = {}
        for step, layers in self.by_step.items():
            for layer, histogram in layers.items():
                found.setdefault(layer, {})[step] = histogram
        return found


class CollectedRun:
    """What was read of a run's record so far: the doctor's history, some histograms, the metadata.

    Args:
        events: The run's `tensorboard/` folder.
    """

    def __init__(self, events: Path) -> None:
        self.events = events
        self._forget()

    def _forget(self) -> None:
        self.history = History()
        self.frames: dict[str, Frames] = {}
        self.info: dict[str, Any] = {}
        self.last_step = -1
        self._position: Position = {}
        self._places: dict[str, _Place] = {}  # by name of a scalar

    def advance(self, max_seconds: float) -> bool:
        """Read on; return whether the end was reached.

        Args:
            max_seconds: After this time, stop at the end of the current event.
        """
        files = sizes_of(self.events)
        if is_replaced(files, self._position):
            self._forget()
        end = time.monotonic() + max_seconds
        pairs = read_entries(self.events, self._position)
        for _, group in itertools.groupby(pairs, key=lambda pair: _event_of(pair[0])):
            found = list(group)
            self._add([entry for entry, _ in found])
            self._position = found[-1][1]
            if time.monotonic() > end:
                return False
        return True

    def observations(self) -> Observations:
        """Return what the doctor reads."""
        self.history.about = about_of(self.info, self.history.layers)
        return self.history.observations()

    def _add(self, entries: list[Entry]) -> None:
        """Add the entries of one event, or of several of the same step."""
        tables: dict[tuple[str, str], dict[str, float]] = {}  # by signal and statistic
        for entry in entries:
            if isinstance(entry, Info):
                self.info = entry.info
                continue
            self.last_step = entry.step
            if isinstance(entry, Scalar):
                place = self._places.get(entry.name) or self._places.setdefault(entry.name, _place_of(entry.name))
                if place.layer:
                    tables.setdefault((place.signal, place.statistic), {})[place.layer] = entry.value
                else:
                    self.history.add_scalars(entry.step, {entry.name: entry.value})
            elif isinstance(entry, LayerHistogram):
                self.frames.setdefault(entry.signal, Frames()).add(entry.step, entry.layer, entry.histogram)
            else:
                layer = names.layer_of(entry.name, names.TIME_NORM)
                self.history.add_time(entry.step, str(layer), entry.values)
        self._add_tables(tables)

    def _add_tables(self, tables: Mapping[tuple[str, str], Mapping[str, float]]) -> None:
        """Add one row of each table to the history, as `diagnosis.recorded_run.replay` does."""
        measured = [signal for signal, statistic in tables if statistic in (names.RMS, names.NONFINITE)]
        for signal in dict.fromkeys(measured):
            rms, bad = (tables.get((signal, statistic), {}) for statistic in (names.RMS, names.NONFINITE))
            layers = sorted(rms.keys() | bad.keys())
            self.history.add("rms", signal, self.last_step, layers, np.array([rms.get(x, np.nan) for x in layers]))
            self.history.add("nonfinite", signal, self.last_step, layers, np.array([bad.get(x, 0.0) for x in layers]))
        for kind, statistic in names.UNIT_SHARES.items():
            signal, _, share = statistic.partition("/")
            if shares := tables.get((signal, share)):
                self.history.add_units(self.last_step, kind, shares)

    def to_record(self, seen: Observations) -> Record:
        """Return a record of what is drawn: per-layer numbers at up to `MAX_ROWS` steps, and the kept histograms."""
        record = Record(info=self.info)
        for name, series in seen.scalars.items():
            record.scalars[name] = Series(series.steps.tolist(), series.values.tolist())
        for signal, table in seen.rms.items():
            _add_columns(record, names.of_signal(signal, names.RMS), table, all_zero=True)
        for signal, table in seen.nonfinite.items():
            only_counts = signal == GRADIENT and not np.isfinite(seen.rms[signal].values).any()
            _add_columns(record, names.of_signal(signal, names.NONFINITE), table, all_zero=only_counts)
        if UPDATE in seen.rms and WEIGHT in seen.rms:
            _add_columns(record, names.UPDATE_RATIO, _ratio(seen.rms[UPDATE], seen.rms[WEIGHT]), all_zero=True)
        for layer, waves in seen.time.items():
            stride = -(-len(waves.steps) // MAX_ROWS) or 1
            by_step = zip(waves.steps[::stride].tolist(), waves.values[::stride], strict=True)
            record.vectors[names.of_layer(names.TIME_NORM, layer)] = dict(by_step)
        record.histograms = self.frames[GRADIENT].by_layer() if GRADIENT in self.frames else {}
        record.other_histograms = {s: frames.by_layer() for s, frames in self.frames.items() if s != GRADIENT}
        return record


class _Place(NamedTuple):
    """Where a scalar belongs: to a table of layers, or, without a layer, to the run."""

    signal: str = ""
    statistic: str = ""
    layer: str = ""


def _place_of(name: str) -> _Place:
    signal, _, rest = name.partition("/")
    statistic, _, layer = rest.partition("/")
    return _Place(signal, statistic, layer) if names.is_of_layer(name) else _Place()


def _event_of(entry: Entry) -> tuple[float, int]:
    return entry.time_s, -1 if isinstance(entry, Info) else entry.step


def _add_columns(record: Record, statistic: str, table: Table, *, all_zero: bool) -> None:
    """Add the columns of a table as series, thinned unless they contain a zero among other numbers, or a count.

    Args:
        record: Receives the series.
        statistic: First part of their names.
        table: Values by step and layer.
        all_zero: Whether to add columns without any number above zero.
    """
    stride = -(-len(table.steps) // MAX_ROWS) or 1
    counts = statistic.endswith(names.NONFINITE)
    for place, layer in enumerate(table.layers):
        values = table.values[:, place]
        if not all_zero and not (values > 0).any():
            continue
        is_rare = (values > 0).any() if counts else (values == 0).any()  # must remain visible
        steps, values = (table.steps, values) if is_rare else (table.steps[::stride], values[::stride])
        known = ~np.isnan(values)
        if known.any():
            record.scalars[names.of_layer(statistic, layer)] = Series(steps[known].tolist(), values[known].tolist())


def _ratio(update: Table, weight: Table) -> Table:
    """Return ‖ΔW‖/‖W‖ of every parameter that was measured in both."""
    layers = tuple(layer for layer in update.layers if layer in set(weight.layers))
    steps, rows, columns = np.intersect1d(update.steps, weight.steps, assume_unique=True, return_indices=True)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        ratios = update.of(layers).values[rows] / weight.of(layers).values[columns]
    return Table(steps, layers, np.where(np.isfinite(ratios), ratios, np.nan))
