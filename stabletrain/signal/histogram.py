"""A histogram of |x| whose bins are the binary exponents of the numbers themselves.

A float32 keeps its exponent in eight bits. Counting those bits needs one pass, no range to be guessed beforehand,
and gives bins of equal width in log2. Counts add up: over layers, over processes, over time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

NUM_BINS = 256
ZERO_BIN = 0  # zeros and subnormals, |x| < 2**-126
NONFINITE_BIN = 255  # Inf and NaN
LOG10_2 = math.log10(2.0)


def log10_edge(index: int) -> float:
    """Return log10 of the lower edge of bin `index` (1 to 255): bin k holds 2**(k-127) <= |x| < 2**(k-126)."""
    return (index - 127) * LOG10_2


@dataclass(frozen=True, eq=False)
class Histogram:
    """Counts of |x| by binary exponent.

    Attributes:
        counts: (256,) int64. Bin 0 counts zeros and subnormals, bin k in 1…254 counts 2**(k-127) <= |x| < 2**(k-126),
            bin 255 counts Inf and NaN.
    """

    counts: np.ndarray

    def __post_init__(self) -> None:
        assert self.counts.shape == (NUM_BINS,), self.counts.shape

    def __add__(self, other: Histogram) -> Histogram:
        return Histogram(self.counts + other.counts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Histogram) and bool(np.array_equal(self.counts, other.counts))

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

    def quantile(self, q: float) -> float | None:
        """Return the q-quantile of |x| over the finite elements, exact to its bin (a factor of 2).

        Inside a bin the mass is taken as even in log|x|. A quantile among the zeros is 0.

        Args:
            q: Share of the elements below the result, 0 to 1.

        Returns:
            The quantile, or None if no element is finite.
        """
        finite = self.counts[:NONFINITE_BIN]
        cumulative = np.cumsum(finite)
        if cumulative[-1] == 0:
            return None
        target = q * cumulative[-1]
        index = min(int(np.searchsorted(cumulative, target, side="left")), NONFINITE_BIN - 1)
        while finite[index] == 0:  # q = 0 points before the first filled bin
            index += 1
        if index == ZERO_BIN:
            return 0.0
        below = cumulative[index] - finite[index]
        share = (target - below) / finite[index]
        return 2.0 ** (index - 127 + min(max(float(share), 0.0), 1.0))
