"""Splits the bytes of an event into its values without an object for each of them.

An event of a thousand layers contains thousands of values, always in the same order and under the same names. Numbers
that stand in a row are therefore compared as a whole with a row seen before, which is known by its first name: if only
the numbers differ, all of them are read at once.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from stabletrain.record.recorded_histogram import read_varint

WALL_TIME, STEP, SUMMARY = 0x09, 0x10, 0x2A  # tags of an event's fields
VALUE, NAME, NUMBER, HISTOGRAM = 0x0A, 0x0A, 0x15, 0x2A  # of a summary's and of a value's fields
MAX_FIRSTS, MAX_LAYOUTS = 256, 8  # first names that are remembered, and rows that begin with the same name


class Head(NamedTuple):
    """Step, wall time and the place of the summary of an event; `begin` equals `end` without a summary."""

    step: int
    time_s: float
    begin: int
    end: int


class Value(NamedTuple):
    """A value of a summary: its name, the tag of its content, and where content and value end."""

    name: bytes
    kind: int
    begin: int
    end: int


@dataclass(frozen=True)
class Numbers:
    """Scalars that stand in a row: (n,) names in their order, and (n,) float32."""

    layout: Layout
    values: np.ndarray


@dataclass(frozen=True)
class HistogramRun:
    """Histograms that stand in a row and belong to the same signal: names begin with `prefix`."""

    prefix: bytes
    body: bytes
    begin: int
    end: int

    def messages(self) -> Iterator[tuple[str, bytes]]:
        """Yield the layer and the message of each histogram."""
        at = self.begin
        while at < self.end:
            value = value_at(self.body, at)
            if value.kind == HISTOGRAM:
                yield value.name[len(self.prefix) :].decode(), self.body[value.begin : value.end]
            at = value.end


@dataclass(frozen=True)
class Other:
    """A value of another kind, such as the run's metadata: its serialized message."""

    message: bytes


class Layout:
    """The bytes of scalars in a row, without their numbers."""

    def __init__(self, names: list[bytes], row: bytes, places: list[int]) -> None:
        self.names = [name.decode() for name in names]
        self._is_text = np.ones(len(row), bool)
        self._places = (np.array(places)[:, None] + np.arange(4)).reshape(-1)
        self._is_text[self._places] = False
        self._text = np.frombuffer(row, np.uint8)[self._is_text]
        self.length = len(row)

    def read(self, body: bytes, at: int, end: int) -> np.ndarray | None:
        """Return the numbers at a position; None if anything else differs."""
        if at + self.length > end:
            return None
        row = np.frombuffer(body, np.uint8, self.length, at)
        if not np.array_equal(row[self._is_text], self._text):
            return None
        return row[self._places].view("<f4")


def head_of(body: bytes) -> Head:
    """Return where an event's summary is, and its step and time."""
    step, time_s, begin, end, at = 0, 0.0, 0, 0, 0
    while at < len(body):
        tag = body[at]
        if tag == WALL_TIME:
            time_s, at = struct.unpack_from("<d", body, at + 1)[0], at + 9
        elif tag == STEP:
            step, at = read_varint(body, at + 1)
        elif tag == SUMMARY:
            length, begin = read_varint(body, at + 1)
            at = end = begin + length
        else:
            at = _skip(body, at)
    return Head(step - (step >> 63 << 64), time_s, begin, end)  # a negative number has its highest bit set


def _skip(body: bytes, at: int) -> int:
    """Return the end of a field that is not read."""
    tag, at = read_varint(body, at)
    match tag & 7:
        case 0:
            return read_varint(body, at)[1]
        case 1:
            return at + 8
        case 2:
            length, at = read_varint(body, at)
            return at + length
    return at + 4


def value_at(body: bytes, at: int) -> Value:
    """Return the value that begins at a position; a kind of 0 if it is neither a number nor a histogram."""
    length, begin = read_varint(body, at + 1)
    end = begin + length
    if not length or body[begin] != NAME:
        return Value(b"", 0, begin, end)
    size, at = read_varint(body, begin + 1)
    name, at = body[at : at + size], at + size
    if at < end and body[at] == NUMBER and at + 5 == end:
        return Value(name, NUMBER, at + 1, end)
    if at < end and body[at] == HISTOGRAM:
        size, at = read_varint(body, at + 1)
        if at + size == end:
            return Value(name, HISTOGRAM, at, end)
    return Value(name, 0, begin, end)


class EventSplitter:
    """Splits events into rows of scalars, rows of histograms and other values; remembers the rows that it has seen."""

    def __init__(self) -> None:
        self._layouts: OrderedDict[bytes, list[Layout]] = OrderedDict()  # by the first name

    def split(self, body: bytes, head: Head) -> Iterator[Numbers | HistogramRun | Other]:
        """Yield the parts of an event in their order."""
        at = head.begin
        while at < head.end:
            value = value_at(body, at)
            if value.kind == NUMBER:
                part, at = self._numbers(body, at, head.end, value)
            elif value.kind == HISTOGRAM:
                part, at = _histograms(body, at, head.end, value)
            else:
                part, at = Other(body[value.begin : value.end]), value.end
            yield part

    def _numbers(self, body: bytes, at: int, end: int, first: Value) -> tuple[Numbers, int]:
        known = self._layouts.get(first.name, [])
        for place, layout in enumerate(known):
            values = layout.read(body, at, end)
            if values is not None:
                known.insert(0, known.pop(place))
                return Numbers(layout, values), at + layout.length
        layout = _layout_of(body, at, end, first)
        self._layouts[first.name] = [layout, *known][:MAX_LAYOUTS]
        if len(self._layouts) > MAX_FIRSTS:
            self._layouts.popitem(last=False)
        values = layout.read(body, at, end)
        assert values is not None
        return Numbers(layout, values), at + layout.length


def _layout_of(body: bytes, at: int, end: int, value: Value) -> Layout:
    """Return the layout of the scalars in a row from a position on, of which the first is given."""
    names, places, stop = [], [], at
    while value.kind == NUMBER:
        names.append(value.name)
        places.append(value.begin - at)
        stop = value.end
        if stop == end:
            break
        value = value_at(body, stop)
    return Layout(names, body[at:stop], places)


def _histograms(body: bytes, at: int, end: int, first: Value) -> tuple[HistogramRun, int]:
    """Return the histograms from a position on whose names begin like the first one, up to the layer."""
    prefix = b"/".join(first.name.split(b"/", 2)[:2]) + b"/"
    sign = NAME.to_bytes()
    place = first.end
    while place < end:  # the fast part of `value_at`
        begin = place + 2 if body[place + 1] < 128 else place + 3 if body[place + 2] < 128 else -1
        if begin < 0 or begin + 2 > end or body[begin + 1] > 127 or not body.startswith(sign, begin):
            break
        name = begin + 2
        content = name + body[begin + 1]
        if content >= end or not body.startswith(prefix, name) or body[content] != HISTOGRAM:
            break
        length = body[place + 1] if begin == place + 2 else (body[place + 1] & 127) | body[place + 2] << 7
        place = begin + length
    return HistogramRun(prefix, body, at, place), place
