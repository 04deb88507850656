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
from stabletrain.signal.histogram import LOG10_2, NONFINITE_BIN, NUM_BINS, ZERO_BIN, Histogram
from stabletrain.vocabulary import metric_names as names
from stabletrain.vocabulary.signals import GRADIENT, SIGNALS

Position = dict[str, int]  # bytes read so far, by file name


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
    """Return the event files of a folder in the order in which they were created."""
    return sorted(p for p in folder.glob("events.out.tfevents.*") if p.is_file())


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
        for event, offset in _read_events(path, position.get(path.name, 0)):
            entries = [e for value in event.summary.value if (e := _decode(event, value)) is not None]
            before = dict(position)
            position[path.name] = offset
            for entry in entries[:-1]:
                yield entry, before
            for entry in entries[-1:]:
                yield entry, dict(position)


def _read_events(path: Path, offset: int) -> Iterator[tuple[Any, int]]:
    with path.open("rb") as file:
        file.seek(offset)
        while True:
            header = file.read(12)
            if len(header) < 12:
                return
            length, length_crc = struct.unpack("<QI", header)
            if masked_crc([header[:8]]) != length_crc:
                return
            body = file.read(length + 4)
            if len(body) < length + 4 or masked_crc([body[:-4]]) != struct.unpack("<I", body[-4:])[0]:
                return
            offset += 12 + length + 4
            yield Event.FromString(body[:-4]), offset


def _decode(event: Any, value: Any) -> Entry | None:
    kind = value.WhichOneof("value")
    if kind == "simple_value":
        return Scalar(names.current_name(value.tag), event.step, event.wall_time, value.simple_value)
    if kind == "histo":
        for signal in SIGNALS:
            layer = names.layer_of(value.tag, names.histograms_of(signal))
            if layer is not None:
                return LayerHistogram(layer, event.step, event.wall_time, decode_histogram(value.histo), signal)
        return None
    if kind == "tensor" and value.tag == names.RUN_INFO:
        return Info(event.wall_time, json.loads(value.tensor.string_val[0]))
    if kind == "tensor" and value.tag.startswith(f"{names.TIME_NORM}/"):
        return Vector(value.tag, event.step, event.wall_time, np.frombuffer(value.tensor.tensor_content, "<f4"))
    return None


def decode_histogram(proto: Any) -> Histogram:
    """Return the histogram that `encoding.Histograms` wrote, which has no signs."""
    counts = np.zeros(NUM_BINS, dtype=np.int64)
    low = round(proto.bucket_limit[0] / LOG10_2) + 127
    buckets = np.array(proto.bucket, dtype=np.int64)
    counts[low : low + len(buckets) - 2] = buckets[1:-1]
    counts[ZERO_BIN], counts[NONFINITE_BIN] = buckets[0], buckets[-1]
    return Histogram(counts)


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
    """Read all event files under `run_dir/tensorboard`."""
    scalars: dict[str, dict[int, float]] = {}
    record = Record()
    for entry, _ in read_entries(Path(run_dir) / "tensorboard"):
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
            record.info = entry.info
    for name, by_step in scalars.items():
        steps = sorted(by_step)
        record.scalars[name] = Series(steps, [by_step[s] for s in steps])
    record.histograms = _by_step(record.histograms)
    record.other_histograms = {signal: _by_step(found) for signal, found in record.other_histograms.items()}
    record.vectors = _by_step(record.vectors)
    return record


def _by_step(found: dict[str, dict[int, Any]]) -> dict[str, dict[int, Any]]:
    return {key: dict(sorted(by_step.items())) for key, by_step in found.items()}
