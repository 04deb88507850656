"""Reads event files, from the start or from the position where an earlier reading stopped."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from stabletrain.record.checksum import masked_crc
from stabletrain.record.protos import Event
from stabletrain.record.recorded_histogram import RecordedHistogram
from stabletrain.record.run_folder import EVENT_FILES, RunFolder, is_own_events
from stabletrain.signal.histogram import Histogram
from stabletrain.vocabulary import metric_names as names
from stabletrain.vocabulary.notice import keep_notices
from stabletrain.vocabulary.signals import GRADIENT, SIGNALS

Position = dict[str, int]  # bytes read so far, by file name
BUFFER = 2**18  # bytes read at once; most events are small


@dataclass(frozen=True)
class Scalar:
    """A scalar on one step."""

    name: str
    step: int
    time_s: float
    value: float


@dataclass(frozen=True)
class LayerHistogram:
    """The histogram of one layer on one step."""

    layer: str
    step: int
    time_s: float
    histogram: Histogram
    signal: str = GRADIENT


@dataclass(frozen=True, eq=False)
class Vector:
    """A one-dimensional array on one step, such as a norm for each time step."""

    name: str
    step: int
    time_s: float
    values: np.ndarray


@dataclass(frozen=True)
class Info:
    """Metadata of the run: plain JSON data."""

    time_s: float
    info: dict[str, Any]


Entry = Scalar | LayerHistogram | Vector | Info


def event_files(folder: Path) -> list[Path]:
    """Return the event files of a folder in the order in which they were created.

    Where another tool writes beside stabletrain, as Lightning's logger does, only those of stabletrain.
    """
    files = sorted(p for p in folder.glob(EVENT_FILES) if p.is_file())
    return [p for p in files if is_own_events(p.name)] or files


def read_entries(folder: Path, position: Position | None = None) -> Iterator[tuple[Entry, Position]]:
    """Yield each entry and the position after the event that contains it.

    All entries of one event share one step, and the position advances only with the last of them: a reader that stops
    within an event reads that event again. A file ends at the first event that is incomplete or corrupted.

    Args:
        folder: The run's `tensorboard/` folder.
        position: Where an earlier reading stopped; None for the start. It is not modified.
    """
    position = dict(position or {})
    for path in event_files(folder):
        for body, offset in read_bodies(path, position.get(path.name, 0)):
            event = Event.FromString(body)
            decoded = (decode(value, event.step, event.wall_time) for value in event.summary.value)
            entries = [entry for entry in decoded if entry is not None]
            before = dict(position)
            position[path.name] = offset
            for entry in entries[:-1]:
                yield entry, before
            for entry in entries[-1:]:
                yield entry, dict(position)


def read_bodies(path: Path, offset: int) -> Iterator[tuple[bytes, int]]:
    """Yield the bytes of each event of a file from a position on, and the position after it."""
    with path.open("rb", buffering=BUFFER) as file:
        file.seek(offset)
        while True:
            header = file.read(12)
            if len(header) < 12:
                return
            length, length_crc = struct.unpack("<QI", header)
            if masked_crc([header[:8]]) != length_crc:
                return
            body, crc = file.read(length), file.read(4)
            if len(crc) < 4 or masked_crc([body]) != struct.unpack("<I", crc)[0]:
                return
            offset += 12 + length + 4
            yield body, offset


def decode(value: Any, step: int, time_s: float) -> Entry | None:
    """Return what a value of an event's summary is; None if it is no part of the record."""
    kind = value.WhichOneof("value")
    if kind == "simple_value":
        return Scalar(names.current_name(value.tag), step, time_s, value.simple_value)
    if kind == "histo":
        for signal in SIGNALS:
            layer = names.layer_of(value.tag, names.histograms_of(signal))
            if layer is not None:
                return LayerHistogram(layer, step, time_s, decode_histogram(value.histo), signal)
        return None
    if kind == "tensor" and value.tag == names.RUN_INFO:
        return Info(time_s, json.loads(value.tensor.string_val[0]))
    if kind == "tensor" and value.tag.startswith(f"{names.TIME_NORM}/"):
        return Vector(value.tag, step, time_s, np.frombuffer(value.tensor.tensor_content, "<f4"))
    return None


def decode_histogram(proto: Any) -> Histogram:
    """Return the histogram that `encoding.Histograms` wrote; its counts are decoded when they are read."""
    return RecordedHistogram(proto.SerializeToString())


@dataclass
class Series:
    """A scalar over the run, by increasing steps. Of a step recorded twice (a resumed run), the later value counts."""

    steps: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)


@dataclass
class Record:
    """The whole record of a run in memory.

    Attributes:
        scalars: Series by name, in the order of first appearance.
        histograms: For each layer, histograms of its gradient by increasing step.
        other_histograms: The same for each other signal.
        vectors: For each name, arrays by increasing step.
        info: Metadata of the run.
    """

    scalars: dict[str, Series] = field(default_factory=dict)
    histograms: dict[str, dict[int, Histogram]] = field(default_factory=dict)
    other_histograms: dict[str, dict[str, dict[int, Histogram]]] = field(default_factory=dict)
    vectors: dict[str, dict[int, np.ndarray]] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def layers(self) -> list[str]:
        """Layers whose gradient was recorded, in forward order."""
        found = (names.layer_of(name, names.GRADIENT_RMS) for name in self.scalars)
        return sorted({layer for layer in found if layer} | set(self.histograms))

    def of_layers(self, statistic: str) -> dict[str, Series]:
        """Return the series `<statistic>/<layer>` by layer, in forward order."""
        found = {names.layer_of(name, statistic): series for name, series in self.scalars.items()}
        return {layer: series for layer, series in sorted((k, v) for k, v in found.items() if k is not None)}

    def histograms_of(self, signal: str) -> dict[str, dict[int, Histogram]]:
        """Return the histograms of a signal by layer and step."""
        return self.histograms if signal == GRADIENT else self.other_histograms.get(signal, {})


def load_record(run_dir: Path | str) -> Record:
    """Read all event files of a run."""
    scalars: dict[str, dict[int, float]] = {}
    record = Record()
    for entry, _ in read_entries(RunFolder(run_dir).events):
        if isinstance(entry, Scalar):
            scalars.setdefault(entry.name, {})[entry.step] = entry.value
        elif isinstance(entry, LayerHistogram):
            if entry.signal == GRADIENT:
                by_layer = record.histograms
            else:
                by_layer = record.other_histograms.setdefault(entry.signal, {})
            by_layer.setdefault(entry.layer, {})[entry.step] = entry.histogram
        elif isinstance(entry, Vector):
            record.vectors.setdefault(entry.name, {})[entry.step] = entry.values
        else:
            record.info = keep_notices(record.info, entry.info)
    for name, by_step in scalars.items():
        steps = sorted(by_step)
        record.scalars[name] = Series(steps, [by_step[s] for s in steps])
    record.histograms = _by_step(record.histograms)
    record.other_histograms = {signal: _by_step(found) for signal, found in record.other_histograms.items()}
    record.vectors = _by_step(record.vectors)
    return record


def _by_step(found: dict[str, dict[int, Any]]) -> dict[str, dict[int, Any]]:
    return {key: dict(sorted(by_step.items())) for key, by_step in found.items()}
