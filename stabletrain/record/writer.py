"""Appends to the event file. What was appended survives a kill; only snapshots are buffered, for about two seconds."""

from __future__ import annotations

import atexit
import json
import math
import os
import socket
import struct
import textwrap
import time
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from stabletrain.record import encoding
from stabletrain.record.checksum import masked_crc
from stabletrain.record.encoding import FLOAT32_MAX, Bytes, encode_event
from stabletrain.record.layouts import Layouts
from stabletrain.record.protos import (
    DT_FLOAT,
    DT_STRING,
    Event,
    Summary,
    SummaryMetadata,
    TensorProto,
    TensorShapeProto,
)
from stabletrain.record.snapshots import Snapshots
from stabletrain.signal.snapshot import Snapshot
from stabletrain.vocabulary import metric_names as names
from stabletrain.vocabulary.notice import Notice, join

FLUSH_S = 2.0
MAX_WAITING = 256  # buffered snapshots; one with histograms counts as `HISTOGRAMS_COUNT_FOR`
HISTOGRAMS_COUNT_FOR = 16
CHUNK = 2**16  # bytes per call: larger writes took eight times as long (docs/LOG.md)
PLUGIN = "stabletrain"  # TensorBoard ignores the data of a plugin that it does not have


class Listener(Protocol):
    """Receives everything that is appended to a record, in the same order, such as `diagnosis.history.History`."""

    def add_snapshot(self, snapshot: Snapshot) -> None:
        """Receive the statistics of one step."""

    def add_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Receive scalars of one step."""

    def add_time(self, step: int, layer: str, norms: np.ndarray) -> None:
        """Receive ‖∂L/∂h_t‖ of a recurrent layer."""

    def add_notice(self, notice: Notice) -> None:
        """Receive what was seen during training."""


class RecordWriter:
    """Writes the measurements of a run to a TensorBoard event file, which is the record of the run.

    Each writer creates a new file; a folder may contain several, one per resume. Non-finite scalars are not written:
    they would hide the whole curve in both UIs. The same holds for values beyond float32, which would be stored as Inf.
    Count them under another name instead.

    Args:
        folder: Folder of the event files; created if missing.
    """

    def __init__(self, folder: Path | str) -> None:
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard and the reader sort files by name, so the name begins with the time.
        name = f"events.out.tfevents.{time.time_ns() / 1e9:020.9f}.{socket.gethostname()}.{os.getpid()}"
        self.path = folder / name
        self._descriptor: int | None = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self._snapshots = Snapshots()
        self._waiting: list[tuple[float, Snapshot]] = []
        self._num_waiting = 0
        self._last_flush = -math.inf
        self._layouts = Layouts()
        self.info: dict[str, Any] = {}
        self.listeners: list[Listener] = []  # they hear what is appended, in the same order
        self._write(frame([Event(wall_time=time.time(), file_version="brain.Event:2").SerializeToString()]))
        self._process = os.getpid()
        _OPEN.add(self)

    def prepare(self) -> None:
        """Compile the encoders now, so that the first snapshot does not slow its step down."""
        encoding.prepare()

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Append the finite scalars of one step."""
        self.write_steps([(step, scalars)])

    def write_steps(self, steps: Sequence[tuple[int, Mapping[str, float]]]) -> None:
        """Append the finite scalars of several steps in one write."""
        parts: list[Bytes] = []
        for step, scalars in steps:
            kept = {tag: value for tag, value in scalars.items() if _is_storable(value)}
            parts += _frame_values(step, [Summary.Value(tag=tag, simple_value=v) for tag, v in kept.items()])
            for listener in self.listeners:
                listener.add_scalars(step, kept)
        self._write(parts)

    def write_snapshot(self, snapshot: Snapshot) -> None:
        """Append, as one event, the statistics of a step and, where present, histograms of log10|g| of every layer.

        Snapshots within two seconds of each other are encoded together, which is several times cheaper. A snapshot that
        is still being copied from a GPU is written with the next call. `flush` and `close` write all buffered ones.
        """
        self._waiting.append((time.time(), snapshot))
        self._num_waiting += HISTOGRAMS_COUNT_FOR if snapshot.has_histograms else 1
        if self._num_waiting >= MAX_WAITING or time.monotonic() - self._last_flush >= FLUSH_S:
            self._flush(num_kept=1 if snapshot.is_on_device else 0)

    def flush(self) -> None:
        """Write all buffered snapshots."""
        self._flush(num_kept=0)

    def _flush(self, num_kept: int) -> None:
        count = len(self._waiting) - num_kept
        waiting, self._waiting = self._waiting[:count], self._waiting[count:]
        if not waiting:
            return
        joined: list[bytes] = []  # small events, written together
        for time_s, snapshot in waiting:
            summary = [self._layouts.encode(snapshot), *self._snapshots.encode(snapshot)]
            for listener in self.listeners:
                listener.add_snapshot(snapshot)
            if not any(map(len, summary)):
                continue
            event = frame(encode_event(snapshot.step, time_s, summary))
            if sum(map(len, event)) > CHUNK // 8:
                self._write([*joined, *event])  # before the next snapshot is encoded into the same arrays
                joined = []
            else:
                joined.append(b"".join(event))  # pyright: ignore[reportArgumentType] (an array is a buffer)
        self._write(joined)
        self._num_waiting = 0
        self._last_flush = time.monotonic()

    def write_vectors(self, step: int, vectors: Mapping[str, np.ndarray]) -> None:
        """Append one-dimensional arrays, such as a norm for each time step, in float32."""
        values = []
        for tag, vector in vectors.items():
            shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=len(vector))])
            data = np.ascontiguousarray(vector, "<f4").tobytes()
            tensor = TensorProto(dtype=DT_FLOAT, tensor_content=data, tensor_shape=shape)
            metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name=PLUGIN))
            values.append(Summary.Value(tag=tag, tensor=tensor, metadata=metadata))
            layer = names.layer_of(tag, names.TIME_NORM)
            for listener in self.listeners if layer else ():
                listener.add_time(step, str(layer), vector)
        self._write(_frame_values(step, values))

    def write_info(self, info: Mapping[str, Any]) -> None:
        """Append the metadata of the run (plain JSON data), which TensorBoard shows on its text page."""
        self.info = dict(info)
        text = textwrap.indent(json.dumps(info, indent=2), "    ")  # an indented block is shown verbatim
        metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
        shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)])
        tensor = TensorProto(dtype=DT_STRING, string_val=[text.encode()], tensor_shape=shape)
        self._write(_frame_values(0, [Summary.Value(tag=names.RUN_INFO, metadata=metadata, tensor=tensor)]))

    def write_notice(self, notice: Notice) -> None:
        """Append what was seen during training, as part of the metadata of the run."""
        known = tuple(Notice(**fields) for fields in self.info.get("notices", []))
        self.write_info(self.info | {"notices": [n.to_dict() for n in join(known, notice)]})
        for listener in self.listeners:
            listener.add_notice(notice)

    def close(self) -> None:
        """Flush to the disk and close."""
        if self._descriptor is not None:
            self.flush()
            os.fsync(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None

    def __del__(self) -> None:
        if getattr(self, "_process", None) == os.getpid():  # fully constructed, and not the copy in a forked process
            self.close()

    def _write(self, parts: Sequence[Bytes]) -> None:
        """Append bytes given in parts: small neighbors in one call, larger parts in chunks."""
        joined: list[Bytes] = []
        room = CHUNK
        for part in parts:
            if len(part) > room:
                self._write_at_once(joined)
                joined, room = [], CHUNK
            if len(part) > CHUNK:
                self._write_at_once([part])
            else:
                joined.append(part)
                room -= len(part)
        self._write_at_once(joined)

    def _write_at_once(self, parts: Sequence[Bytes]) -> None:
        """Append bytes in one call, or in one per chunk."""
        data = memoryview(parts[0] if len(parts) == 1 else b"".join(parts))  # pyright: ignore[reportArgumentType]
        while data:
            assert self._descriptor is not None, "the record is closed"
            data = data[os.write(self._descriptor, data[:CHUNK]) :]


_OPEN: weakref.WeakSet[RecordWriter] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Write the buffers of writers that were not closed, before the interpreter shuts down."""
    for writer in [*_OPEN]:
        if writer._process == os.getpid():
            writer.close()


def _is_storable(value: float) -> bool:
    return abs(value) <= FLOAT32_MAX  # False for NaN; larger values would be stored as Inf


def _frame_values(step: int, values: Sequence[Any]) -> list[Bytes]:
    """Return the parts of a framed event with some values; an empty list without values."""
    if not values:
        return []
    return frame(encode_event(step, time.time(), [Summary(value=values).SerializeToString()]))


def frame(data: Sequence[Bytes]) -> list[Bytes]:
    """Frame data as a TFRecord: length, masked CRC of the length, data, masked CRC of the data."""
    length = struct.pack("<Q", sum(map(len, data)))
    head = length + struct.pack("<I", masked_crc([length]))
    return [head, *data, struct.pack("<I", masked_crc(data))]
