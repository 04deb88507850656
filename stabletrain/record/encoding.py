"""Encodes events without a Python object per layer: a step of hundreds of layers costs microseconds.

The bytes are those of TensorBoard's `Event` message (tensorboard/compat/proto, event.proto and summary.proto); tests
read them back with TensorBoard's own classes.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from stabletrain.record.protos import Event, Summary
from stabletrain.signal.histogram import LOG10_2, NONFINITE_BIN, NUM_BINS, log10_edge
from stabletrain.signal.kernels.jit import HAS_NUMBA, compile_

Bytes = bytes | np.ndarray  # arrays are uint8, and are not copied
FLOAT32_MAX = float(np.finfo(np.float32).max)  # an event stores scalars in float32
EDGES = np.array([log10_edge(k) for k in range(NUM_BINS + 2)])  # lower edges; two more for Inf and NaN
FIXED_BYTES = 5 * 9 + 2 * 4 + 2 * 8 * 3 + 32  # of a histogram without its filled bins: five sums, lengths, ends


def encode_event(step: int, time_s: float, summary: Sequence[Bytes]) -> list[Bytes]:
    """Return the parts of an event with an encoded summary, whose parts are not copied."""
    length = sum(map(len, summary))
    return [Event(wall_time=time_s, step=step).SerializeToString() + b"\x2a" + varint(length), *summary]


def varint(value: int) -> bytes:
    """Return a non-negative integer as a protobuf varint (base 128)."""
    parts = []
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])


class Scalars:
    """Encodes the same scalars on every step: only their four-byte values change.

    Args:
        tags: Names, in the order of the values.
    """

    def __init__(self, tags: Sequence[str]) -> None:
        self._parts = [_around_value(tag) for tag in tags]
        ends = np.cumsum([len(part) for part in self._parts], dtype=np.int64)
        self._whole = np.frombuffer(b"".join(self._parts), np.uint8)
        self._places = ((ends - 4)[:, None] + np.arange(4)).reshape(-1)  # of every value's four bytes

    def encode(self, values: np.ndarray) -> Bytes:
        """Return the summary of values (len(tags),); values that are not finite in float32 are left out."""
        storable = np.abs(values) <= FLOAT32_MAX  # False for NaN
        with np.errstate(over="ignore", invalid="ignore"):
            data = np.ascontiguousarray(values, dtype="<f4").view(np.uint8)
        if storable.all():
            whole = self._whole.copy()
            whole[self._places] = data
            return whole
        kept = np.flatnonzero(storable)
        return b"".join(self._parts[i][:-4] + data[4 * i : 4 * i + 4].tobytes() for i in kept)


def _around_value(tag: str) -> bytes:
    """Return the summary of one scalar, whose last four bytes are its value."""
    encoded = Summary(value=[Summary.Value(tag=tag, simple_value=1.0)]).SerializeToString()
    assert encoded[-4:] == struct.pack("<f", 1.0)
    return encoded


class Histograms:
    """Encodes the counts of the same layers on every step, as TensorBoard buckets over log10 of the absolute value.

    The first bucket counts zeros and subnormals and the last Inf and NaN, even if empty; between them are the bins from
    the lowest to the highest filled one, so that the page shows the range in use. TensorBoard's buckets have no sign:
    both signs are counted together.

    Args:
        tags: Names, in the order of the rows.
    """

    def __init__(self, tags: Sequence[str]) -> None:
        names = [b"\x0a" + varint(len(tag.encode())) + tag.encode() for tag in tags]
        self._names = np.frombuffer(b"".join(names), np.uint8)
        self._ends = np.cumsum([len(name) for name in names], dtype=np.int64)
        self._out = np.empty(len(self._names) + len(tags) * (FIXED_BYTES + 16 * NUM_BINS), np.uint8)

    def encode(self, counts: np.ndarray) -> np.ndarray:
        """Return the summary of counts (len(tags), 512), bin sign·256 + exponent; the next call overwrites it."""
        length = encode_(counts, self._names, self._ends, EDGES, LOG10_2 / 2, self._out)
        return self._out[:length]


def _write_varint(out: Any, at: int, value: int) -> int:
    while value > 127:
        out[at] = value & 127 | 128
        value >>= 7
        at += 1
    out[at] = value
    return at + 1


def _length_of_varint(value: int) -> int:
    length = 1
    while value > 127:
        value >>= 7
        length += 1
    return length


_put_varint = compile_(_write_varint)
_varint_length = compile_(_length_of_varint)


def _fill_by_loops(row, edges, half_bin, numbers):
    """Write five sums, then limits, then buckets of one layer's (512,) counts; return the number of buckets."""
    high, low = 254, 1
    while high > 0 and row[high] + row[high + 256] == 0:
        high -= 1
    while low < high and row[low] + row[low + 256] == 0:
        low += 1
    num = high - low + 3
    total, first, second = 0.0, 0.0, 0.0
    for k in range(num):
        numbers[5 + k] = edges[low + k]
        if k == 0:
            count = row[0] + row[256]
        elif k == num - 1:
            count = row[255] + row[511]
        else:
            count = row[low + k - 1] + row[low + k + 255]
            centre = edges[low + k - 1] + half_bin
            first += centre * count
            second += centre * centre * count
        numbers[5 + num + k] = count
        total += count
    numbers[0], numbers[1] = edges[low - 1], edges[low + num - 1]
    numbers[2], numbers[3], numbers[4] = total, first, second
    return num


def _fill_by_numpy(row, edges, half_bin, numbers):
    """The same bit by bit, since `cumsum` adds in order. Compiled with numba, it would take twice as long."""
    bins = row[:NUM_BINS] + row[NUM_BINS:]
    filled = 1 + np.flatnonzero(bins[1:NONFINITE_BIN])
    low, high = (filled[0], filled[-1]) if len(filled) else (1, 0)
    num = high - low + 3
    inner, centres = bins[low : high + 1], edges[low : high + 1] + half_bin
    numbers[0], numbers[1], numbers[2] = edges[low - 1], edges[low + num - 1], bins.sum()
    numbers[3], numbers[4] = (np.cumsum(x * inner)[-1] if len(filled) else 0.0 for x in (centres, centres * centres))
    numbers[5 : 5 + num] = edges[low : low + num]
    numbers[5 + num : 5 + 2 * num] = np.concatenate([bins[:1], inner, bins[NONFINITE_BIN:]])
    return num


_fill = compile_(_fill_by_loops) if HAS_NUMBA else _fill_by_numpy


def _encode(counts, names, ends, edges, half_bin, out):
    """Write one `Summary.value` per row of `counts` into `out`; return the number of bytes."""
    numbers = np.empty(5 + 2 * 260, np.float64)  # five sums, then limits, then buckets
    data = numbers.view(np.uint8)
    at, begin = 0, 0
    for i in range(len(counts)):
        num = _fill(counts[i], edges, half_bin, numbers)
        packed = 1 + _varint_length(8 * num) + 8 * num
        histogram = 5 * 9 + 2 * packed
        name = ends[i] - begin
        out[at] = 0x0A  # Summary.value
        at = _put_varint(out, at + 1, name + 1 + _varint_length(histogram) + histogram)
        out[at : at + name] = names[begin : ends[i]]
        at += name
        begin = ends[i]
        out[at] = 0x2A  # Value.histo
        at = _put_varint(out, at + 1, histogram)
        for k in range(5):  # min, max, num, sum, sum_squares
            out[at] = 0x09 + 8 * k
            out[at + 1 : at + 9] = data[8 * k : 8 * k + 8]
            at += 9
        for k in range(2):  # bucket_limit, bucket
            out[at] = 0x32 + 8 * k
            at = _put_varint(out, at + 1, 8 * num)
            source = 8 * (5 + k * num)
            out[at : at + 8 * num] = data[source : source + 8 * num]
            at += 8 * num
    return at


encode_ = compile_(_encode)


def prepare() -> None:
    """Compile what histograms need, or load what an earlier process compiled: seconds, the first time."""
    Histograms(["x"]).encode(np.zeros((1, 2 * NUM_BINS), np.int32))
