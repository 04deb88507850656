"""Reads of a record only what a list of runs shows: what the run is, its training loss, and how far it has got.

All other events are skipped without being decoded: a thousand records are read in the time that `load_record` takes for
a few.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from stabletrain.record.checksum import masked_crc
from stabletrain.record.protos import Event
from stabletrain.vocabulary import metric_names as names

HEAD_BYTES, TAIL_BYTES = 12, 4  # around each event: its length and a checksum, then another checksum
CHUNK = 4 * 2**20
MAX_EVENT = 2**20  # bytes; larger events are histograms
MAX_POINTS = 64  # of the loss; beyond, every other point is dropped, and from then on every other one is kept
# The field `Summary.Value.tag` with its length: TensorBoard's layout mentions the names too, in longer texts.
_LOSS, _INFO = (b"\x0a" + bytes([len(name)]) + name.encode() for name in (names.TRAIN_LOSS, names.RUN_INFO))


class Glance:
    """The metadata, training loss and last step of a record, read piece by piece.

    Args:
        events: The run's `tensorboard/` folder.
    """

    def __init__(self, events: Path) -> None:
        self.events = events
        self._forget()

    def _forget(self) -> None:
        self.info: dict[str, Any] = {}
        self.steps: list[int] = []
        self.losses: list[float] = []
        self.last_step = -1
        self._stride, self._num_seen = 1, 0
        self._newest: tuple[int, float | None] = (-1, None)  # the last loss, kept or not
        self._read: dict[str, int] = {}  # bytes by file name

    def advance(self, max_bytes: int = CHUNK) -> bool:
        """Read on; return whether the end was reached.

        Args:
            max_bytes: About how many bytes to read at most.
        """
        files = sizes_of(self.events)
        if is_replaced(files, self._read):
            self._forget()
        for name, size in files.items():
            offset = self._read.get(name, 0)
            while size - offset > HEAD_BYTES:
                if max_bytes <= 0:
                    return False
                length = self._read_piece(name, offset, min(max_bytes, CHUNK))
                if not length:
                    break  # incomplete or damaged
                offset += length
                max_bytes -= min(length, CHUNK)
                self._read[name] = offset
        return True

    def _read_piece(self, name: str, offset: int, num_bytes: int) -> int:
        """Read whole events from an offset; return how many bytes they take."""
        with (self.events / name).open("rb") as file:
            end = os.fstat(file.fileno()).st_size - offset
            file.seek(offset)
            data = file.read(min(max(num_bytes, MAX_EVENT), end))
        at, last, losses = 0, None, []
        while at + HEAD_BYTES <= len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            begin, whole = at + HEAD_BYTES, HEAD_BYTES + length + TAIL_BYTES
            if at + whole > end:
                break
            if at + whole > len(data):
                at += whole if whole > MAX_EVENT else 0  # skipped, or read with the next piece
                break
            place, at = (begin, begin + length), at + whole
            if data.find(_LOSS, *place) >= 0:
                losses.append(place)
            elif data.find(_INFO, *place) >= 0:
                self._take_info(data, *place)
                continue  # metadata is of no step
            last = place
        self._take_losses(data, losses)
        if last is not None:
            self.last_step = max([_step_of(data, *last), *self.curve[0][-1:]])
        return at

    def _take_info(self, data: bytes, begin: int, end: int) -> None:
        for value in _values_of(data, begin, end):
            if value.tag == names.RUN_INFO and value.tensor.string_val:
                self.info = json.loads(value.tensor.string_val[0])

    def _take_losses(self, data: bytes, places: list[tuple[int, int]]) -> None:
        """Decode as many of the events with a loss as are kept."""
        while len(places) > MAX_POINTS * self._stride:
            self._thin()
        for place in places:
            if self._num_seen % self._stride == 0:
                self._add_loss(*_loss_of(data, *place))
            self._num_seen += 1
        if places:
            self._newest = _loss_of(data, *places[-1])

    def _add_loss(self, step: int, loss: float | None) -> None:
        if loss is None:
            return
        while self.steps and self.steps[-1] >= step:  # the run was resumed from an earlier step
            self.steps.pop()
            self.losses.pop()
        self.steps.append(step)
        self.losses.append(loss)
        if len(self.steps) > MAX_POINTS:
            self._thin()

    def _thin(self) -> None:
        self.steps, self.losses, self._stride = self.steps[::2], self.losses[::2], 2 * self._stride

    @property
    def curve(self) -> tuple[list[int], list[float]]:
        """Steps and losses, the newest one included."""
        step, loss = self._newest
        if loss is None or not self.steps or step <= self.steps[-1]:
            return self.steps, self.losses
        return [*self.steps, step], [*self.losses, loss]


def _loss_of(data: bytes, begin: int, end: int) -> tuple[int, float | None]:
    """Return the step and the training loss of an event; None if it is damaged."""
    found = [value.simple_value for value in _values_of(data, begin, end) if value.tag == names.TRAIN_LOSS]
    return _step_of(data, begin, end), found[-1] if found else None


def _values_of(data: bytes, begin: int, end: int) -> Sequence[Any]:
    """Return the values of an event; none if it is damaged."""
    event = data[begin:end]
    if data[end : end + TAIL_BYTES] != struct.pack("<I", masked_crc([event])):
        return []
    return Event.FromString(event).summary.value


def _step_of(data: bytes, begin: int, end: int) -> int:
    try:
        return Event.FromString(data[begin:end]).step
    except DecodeError:  # damaged
        return -1


def is_replaced(sizes: Mapping[str, int], offsets: Mapping[str, int]) -> bool:
    """Return whether a file is gone or shorter than what was read of it: another run has taken its place."""
    return any(sizes.get(name, -1) < offset for name, offset in offsets.items())


def sizes_of(events: Path) -> dict[str, int]:
    """Return the size of each event file of a folder, in the order of their creation; empty if there is none."""
    try:
        with os.scandir(events) as entries:
            found = {e.name: e.stat().st_size for e in entries if e.name.startswith("events.out.tfevents.")}
    except OSError:
        return {}
    return dict(sorted(found.items()))
