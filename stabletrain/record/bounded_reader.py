"""Reads a record of any length in bounded memory, and on from where it stopped.

`reader.load_record` returns every number of a record, and needs memory in proportion to its length. What is drawn and
what the rules read is less: 4,096 rows of each table, and the histograms of a few hundred steps.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from stabletrain.record.histogram_columns import MAX_BYTES, HistogramColumns
from stabletrain.record.protos import Summary
from stabletrain.record.raw_events import EventSplitter, Head, HistogramRun, Layout, Numbers, head_of
from stabletrain.record.reader import Info, Position, Record, Series, Vector, decode, event_files, read_bodies
from stabletrain.record.run_folder import RunFolder
from stabletrain.record.step_table import MAX_ROWS, StepTable
from stabletrain.vocabulary import metric_names as names
from stabletrain.vocabulary.notice import keep_notices
from stabletrain.vocabulary.signals import GRADIENT, SIGNALS

OTHERS_MAX_BYTES = MAX_BYTES * 3 // 8  # of each signal but the gradient, of which a page shows fewer steps
STATISTICS = (names.RMS, names.NONFINITE)  # of a signal: in one table
PREFIXES = {f"{names.histograms_of(signal)}/".encode(): signal for signal in SIGNALS}


@dataclass(frozen=True)
class Rows:
    """Numbers of some layers by step, thinned as `diagnosis.history` thins them.

    Attributes:
        steps: (T,) int64, increasing.
        layers: L names in forward order.
        values: For each statistic (T, L) float32; NaN where nothing was recorded.
        stride: Every how many-th of the recorded rows is here.
        num_seen: Number of rows recorded.
    """

    steps: np.ndarray
    layers: tuple[str, ...]
    values: dict[str, np.ndarray]
    stride: int = 1
    num_seen: int = 0


@dataclass
class BoundedRecord(Record):
    """The record of a run with at most 4,096 rows of each table and a bounded number of histograms.

    Everything is there unless the run is longer. Scalars that do not belong to a layer are complete. The series of the
    layers hold arrays instead of lists.

    Attributes:
        tables: Numbers of the layers by signal (`rms` and `nonfinite`), or by `<signal>/<statistic>` for any other.
    """

    tables: Mapping[str, StepTable] = field(default_factory=dict)

    def rows_of(self, key: str) -> Rows | None:
        """Return the rows of a signal's `rms` and `nonfinite`, or of another statistic such as `activation/dead`."""
        table = self.tables.get(key)
        if table is None:
            return None
        steps, values = table.sampled()
        families = [names.of_signal(key, s) for s in STATISTICS] if key in SIGNALS else [key]
        found = {family: {} for family in families}
        for name, column in table.columns.items():
            for family in families:
                if (layer := names.layer_of(name, family)) is not None:
                    found[family][layer] = column
        layers = tuple(sorted({layer for columns in found.values() for layer in columns}))
        stacked = {family: np.full((len(steps), len(layers)), np.nan, np.float32) for family in families}
        for family, at in found.items():
            places = [place for place, layer in enumerate(layers) if layer in at]
            stacked[family][:, places] = values[:, [at[layers[place]] for place in places]]
        return Rows(steps, layers, stacked, table.stride, table.num_seen)


class BoundedReader:
    """Reads the record of a run; `read` continues where the last call stopped, such as while the run is recorded.

    Args:
        run_dir: The run's folder.
        max_rows: Maximum number of rows of each table.
        max_bytes: Largest size of the gradient's histograms that are kept, in bytes of the event file.
    """

    def __init__(self, run_dir: Path | str, max_rows: int = MAX_ROWS, max_bytes: int = MAX_BYTES) -> None:
        self.folder = RunFolder(run_dir).events
        self.position: Position = {}
        self._max_rows, self._max_bytes = max_rows, max_bytes
        self._splitter = EventSplitter()
        self._places: WeakKeyDictionary[Layout, _Places] = WeakKeyDictionary()
        self._tables: dict[str, StepTable] = {}
        self._scalars: dict[str, tuple[array, array]] = {}
        self._names: dict[str, None] = {}  # of all scalars, in the order of their first appearance
        self._histograms: dict[str, HistogramColumns] = {}
        self._vectors: dict[str, _Vectors] = {}
        self._info: dict[str, Any] = {}
        self._is_bad = False

    def read(self) -> int:
        """Read what was recorded since the last call; return the number of events."""
        num = 0
        for path in event_files(self.folder):
            for body, offset in read_bodies(path, self.position.get(path.name, 0)):
                self._take(body)
                self.position[path.name] = offset
                num += 1
        return num

    def record(self) -> BoundedRecord:
        """Return what has been read so far. Later reading does not change it, but for its `tables`."""
        series: dict[str, Series] = {}
        for table in self._tables.values():
            series |= _series_of(table)
        series |= {name: _in_order(*found) for name, found in self._scalars.items()}
        histograms = {signal: dict(found.by_layer()) for signal, found in self._histograms.items()}
        return BoundedRecord(
            scalars={name: series[name] for name in self._names if name in series},
            histograms=histograms.pop(GRADIENT, {}),  # pyright: ignore[reportArgumentType] (read-only)
            other_histograms=histograms,  # pyright: ignore[reportArgumentType]
            vectors={name: found.by_step() for name, found in self._vectors.items()},
            info=self._info,
            tables=self._tables,
        )

    def _take(self, body: bytes) -> None:
        """Add one event."""
        head = head_of(body)
        rows: dict[str, np.ndarray] = {}
        for part in self._splitter.split(body, head):
            if isinstance(part, Numbers):
                self._take_numbers(head.step, part, rows)
            elif isinstance(part, HistogramRun):
                self._take_histograms(head.step, part)
            else:
                self._take_other(head, part.message)
        for key, row in rows.items():
            self._tables[key].add(head.step, row)

    def _take_numbers(self, step: int, numbers: Numbers, rows: dict[str, np.ndarray]) -> None:
        places = self._places_of(numbers.layout)
        for name, index in places.scalars:
            steps, values = self._scalars[name]
            steps.append(step)
            values.append(numbers.values[index])
        for key, index, columns in places.tables:
            row = rows.get(key)
            if row is None or len(row) < len(self._tables[key].columns):
                new = self._tables[key].new_row()
                if row is not None:
                    new[: len(row)] = row
                row = rows[key] = new
            row[columns] = numbers.values[index]
        bad = numbers.values[places.gradient_counts]
        self._is_bad = self._is_bad or bool(len(bad) and (bad > 0).any())

    def _places_of(self, layout: Layout) -> _Places:
        """Return where the numbers of a row go; remembered for rows that are seen again."""
        known = self._places.get(layout)
        if known is None:
            known = self._places[layout] = self._sort(layout)
        return known

    def _sort(self, layout: Layout) -> _Places:
        scalars, groups, counts = [], {}, []
        for index, tag in enumerate(layout.names):
            name = names.current_name(tag)
            self._names.setdefault(name)
            key, statistic = table_of(name)
            if key is None:
                scalars.append((name, index))
                self._scalars.setdefault(name, (array("q"), array("d")))
                continue
            groups.setdefault((key, statistic), []).append((index, name))
            if key == GRADIENT and statistic == names.NONFINITE:
                counts.append(index)
        tables = []
        for (key, statistic), found in groups.items():
            table = self._tables.setdefault(key, StepTable(self._max_rows))
            columns = table.places([name for _, name in found], is_count=statistic == names.NONFINITE)
            tables.append((key, np.array([index for index, _ in found], np.intp), columns))
        return _Places(scalars, tables, np.array(counts, np.intp))

    def _take_histograms(self, step: int, run: HistogramRun) -> None:
        signal = PREFIXES.get(run.prefix)
        if signal is None:
            return
        if signal not in self._histograms:
            share = 1.0 if signal == GRADIENT else OTHERS_MAX_BYTES / MAX_BYTES
            self._histograms[signal] = HistogramColumns(int(share * self._max_bytes))
        self._histograms[signal].add(step, run, self._is_bad)

    def _take_other(self, head: Head, message: bytes) -> None:
        found = decode(Summary.Value.FromString(message), head.step, head.time_s)
        if isinstance(found, Info):
            self._info = keep_notices(self._info, found.info)
        elif isinstance(found, Vector):
            self._vectors.setdefault(found.name, _Vectors(self._max_rows)).add(found.step, found.values)


@dataclass(frozen=True)
class _Places:
    """Where the numbers of a row go: scalars by name, parts of tables, and which of them count the gradient's Inf."""

    scalars: list[tuple[str, int]]
    tables: list[tuple[str, np.ndarray, np.ndarray]]
    gradient_counts: np.ndarray


class _Vectors:
    """Vectors by step, thinned like the rows of a table; the last one is kept."""

    def __init__(self, max_rows: int) -> None:
        self._max_rows = max_rows
        self._stride, self._num_seen = 1, 0
        self._kept: dict[int, np.ndarray] = {}
        self._last: tuple[int, np.ndarray] | None = None

    def add(self, step: int, values: np.ndarray) -> None:
        if step in self._kept or self._num_seen % self._stride == 0:
            self._kept[step] = values
            if len(self._kept) > self._max_rows:
                self._kept = {s: self._kept[s] for s in sorted(self._kept)[::2]}
                self._stride *= 2
        if self._last is None or step >= self._last[0]:
            self._last = step, values
        self._num_seen += 1

    def by_step(self) -> dict[int, np.ndarray]:
        last = dict([self._last]) if self._last else {}
        return dict(sorted((self._kept | last).items()))


def load_bounded(run_dir: Path | str) -> BoundedRecord:
    """Read all event files of a run in memory that does not grow with the number of steps."""
    reader = BoundedReader(run_dir)
    reader.read()
    return reader.record()


def table_of(name: str) -> tuple[str | None, str]:
    """Return the table of a scalar and its statistic; None as the table if it does not belong to a layer."""
    if not names.is_of_layer(name):
        return None, ""
    signal, statistic, _ = name.split("/", 2)
    return signal if statistic in STATISTICS else names.of_signal(signal, statistic), statistic


def _series_of(table: StepTable) -> Iterator[tuple[str, Series]]:
    """Yield the name and the series of each column."""
    steps, values = table.shown()
    known = ~np.isnan(values)
    whole = np.asarray(known.all(axis=0))
    for name, column in table.columns.items():
        if whole[column]:
            yield name, Series(steps, values[:, column])  # pyright: ignore[reportArgumentType]
        elif known[:, column].any():
            at = known[:, column]
            yield name, Series(steps[at], values[at, column])  # pyright: ignore[reportArgumentType]


def _in_order(steps: array, values: array) -> Series:
    """Return a series by increasing steps; of a step recorded twice, the later value counts."""
    at = np.frombuffer(steps, np.int64)
    if len(at) > 1 and not (np.diff(at) > 0).all():
        found = dict(sorted(zip(steps, values, strict=True), key=lambda pair: pair[0]))
        steps, values = array("q", found), array("d", found.values())
    return Series(steps[:], values[:])  # pyright: ignore[reportArgumentType] (a copy: reading goes on)
