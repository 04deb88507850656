"""A histogram whose bins are the sign and the binary exponent of each number.

A float32 stores sign and exponent in its nine upper bits. Counting these takes one pass, needs no range chosen
beforehand, and gives bins of equal width in log2. Counts can be added over layers, processes and steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

NUM_BINS = 256
NUM_SIGNED_BINS = 512  # sign·256 + exponent
ZERO_BIN = 0  # zeros and subnormals, |x| < 2**-126
NONFINITE_BIN = 255  # Inf and NaN
LOG10_2 = math.log10(2.0)


def log10_edge(index: int) -> float:
    """Return log10 of the lower edge of bin `index` (1 to 255): bin k covers 2**(k-127) <= |x| < 2**(k-126)."""
    return (index - 127) * LOG10_2


@dataclass(frozen=True, eq=False)
class Histogram:
    """Counts of x by binary exponent, and by sign where it is known.

    Attributes:
        counts: (256,) int64, of |x|. Bin 0 counts zeros and subnormals, bin k in 1…254 counts
            2**(k-127) <= |x| < 2**(k-126), bin 255 counts Inf and NaN.
        negative: (256,) int64, the part of `counts` whose sign bit is set; None if signs are unknown, as in a record
            on disk.
        num_subnormal: Number of subnormals, 0 < |x| < 2**-126, in bin 0; None if unknown.
        num_nan: Number of NaN in bin 255; None if unknown.
    """

    counts: np.ndarray
    negative: np.ndarray | None = None
    num_subnormal: int | None = None
    num_nan: int | None = None

    def __post_init__(self) -> None:
        assert self.counts.shape == (NUM_BINS,), self.counts.shape

    def __add__(self, other: Histogram) -> Histogram:
        """Add the counts; what is unknown in one of the two is unknown in the sum."""
        return Histogram(
            self.counts + other.counts,
            _add(self.negative, other.negative),
            _add(self.num_subnormal, other.num_subnormal),
            _add(self.num_nan, other.num_nan),
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Histogram) and bool(
            np.array_equal(self.counts, other.counts)
            and (self.negative is None) == (other.negative is None)
            and np.array_equal(self.negative, other.negative)  # pyright: ignore[reportArgumentType]
            and (self.num_subnormal, self.num_nan) == (other.num_subnormal, other.num_nan)
        )

    __hash__ = None  # type: ignore[assignment]

    @property
    def size(self) -> int:
        """Number of elements counted."""
        return int(self.counts.sum())

    @property
    def num_zero(self) -> int:
        """Number of zeros and subnormals."""
        return int(self.counts[ZERO_BIN])

    @property
    def num_nonfinite(self) -> int:
        """Number of Inf and NaN."""
        return int(self.counts[NONFINITE_BIN])

    @property
    def signed(self) -> np.ndarray | None:
        """(512,) int64 counts from -Inf over the zeros to +Inf, or None if signs are unknown."""
        if self.negative is None:
            return None
        return np.concatenate([self.negative[::-1], self.counts - self.negative])

    def share_below(self, exponent: int) -> float:
        """Return the fraction of elements with 0 < |x| < 2**exponent among those that are finite and not zero.

        In float16, a number below 2**-25 rounds to zero and one below 2**-14 is subnormal: `share_below(-25)` is the
        fraction that would underflow in float16, whatever dtype was measured. If the number of subnormals is unknown,
        they are left out like zeros.

        Args:
            exponent: From -126 to 128.
        """
        subnormal = self.num_subnormal or 0
        total = int(self.counts[1:NONFINITE_BIN].sum()) + subnormal
        below = int(self.counts[1 : exponent + 127].sum()) + subnormal
        return below / total if total else 0.0

    def quantile(self, q: float) -> float | None:
        """Return the q-quantile of |x| over the finite elements, exact to its bin (a factor of 2).

        Within a bin, elements are assumed to be uniform in log|x|. A quantile in bin 0 is 0.

        Args:
            q: Fraction of the elements below the quantile, 0 to 1.

        Returns:
            The quantile, or None if no element is finite.
        """
        finite = self.counts[:NONFINITE_BIN]
        cumulative = np.cumsum(finite)
        if cumulative[-1] == 0:
            return None
        target = q * cumulative[-1]
        index = min(int(np.searchsorted(cumulative, target, side="left")), NONFINITE_BIN - 1)
        while finite[index] == 0:  # q = 0 points before the first bin that is not empty
            index += 1
        if index == ZERO_BIN:
            return 0.0
        below = cumulative[index] - finite[index]
        share = (target - below) / finite[index]
        return 2.0 ** (index - 127 + min(max(float(share), 0.0), 1.0))


def _add(one: Any, other: Any) -> Any:
    return None if one is None or other is None else one + other
