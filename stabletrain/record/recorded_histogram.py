"""A histogram as the bytes of its message in an event file, decoded when it is looked at."""

from __future__ import annotations

import struct

import numpy as np

from stabletrain.signal.histogram import LOG10_2, NONFINITE_BIN, NUM_BINS, ZERO_BIN, Histogram

SUMS = b"\x09\x11\x19\x21\x29"  # tags of min, max, num, sum and sum of squares; a tag is followed by a double
LIMITS, BUCKETS = 0x32, 0x3A  # tags of the two packed lists


class RecordedHistogram(Histogram):
    """The histogram that `encoding.Histograms` wrote, which has no signs; its size grows with its filled bins.

    A record contains far more histograms than a page shows. Decoding one takes microseconds and 2 kB, so it is done on
    every access and the result is not kept.

    Args:
        message: A `HistogramProto`, serialized.
    """

    __slots__ = ("_buckets", "_low")

    def __init__(self, message: bytes) -> None:
        at = 0
        while message[at] in SUMS:  # a sum of zero may be missing
            at += 9
        at, length = _list_at(message, at, LIMITS)
        lowest = struct.unpack_from("<d", message, at)[0]
        at, length = _list_at(message, at + length, BUCKETS)
        object.__setattr__(self, "_low", round(lowest / LOG10_2) + 127)
        object.__setattr__(self, "_buckets", message[at : at + length])

    @property
    def counts(self) -> np.ndarray:  # pyright: ignore[reportIncompatibleVariableOverride] (a new array on every access)
        """(256,) int64 counts of |x| by binary exponent."""
        counts = np.zeros(NUM_BINS, dtype=np.int64)
        buckets = self._as_array()
        counts[self._low : self._low + len(buckets) - 2] = buckets[1:-1]
        counts[ZERO_BIN], counts[NONFINITE_BIN] = buckets[0], buckets[-1]
        return counts

    @property
    def size(self) -> int:
        """Number of elements counted."""
        return int(self._as_array().sum())

    @property
    def num_zero(self) -> int:
        """Number of zeros and subnormals."""
        return int(struct.unpack_from("<d", self._buckets)[0])

    @property
    def num_nonfinite(self) -> int:
        """Number of Inf and NaN."""
        return int(struct.unpack_from("<d", self._buckets, len(self._buckets) - 8)[0])

    def _as_array(self) -> np.ndarray:
        return np.frombuffer(self._buckets, "<f8")

    def __reduce__(self) -> tuple:
        return Histogram, (self.counts,)

    def __repr__(self) -> str:
        return f"RecordedHistogram({self.counts})"


def _list_at(message: bytes, at: int, tag: int) -> tuple[int, int]:
    """Return where the packed doubles of a field begin, and their number of bytes."""
    assert message[at] == tag, (message[at], tag)
    length, at = read_varint(message, at + 1)
    return at, length


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """Return the protobuf varint at a position, and the position after it."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at += 1
        if byte < 128:
            return value, at
        shift += 7
