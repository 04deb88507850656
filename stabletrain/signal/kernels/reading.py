"""The interface of whatever reads float32 tensors on the CPU: what goes in, and what was read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from torch import Tensor


class Reading(NamedTuple):
    """What was read of L tensors.

    Attributes:
        squares: (L,) float64, sum of squares over the finite elements.
        num_nonfinite: (L,) int64, number of Inf and NaN; None if there are none at all.
        counts: (L, 512) int32, number of elements in bin sign·256 + exponent; None if only squares were summed.
        special: (L, 2) int64, number of subnormals and of NaN; None if only squares were summed.
    """

    squares: np.ndarray
    num_nonfinite: np.ndarray | None
    counts: np.ndarray | None = None
    special: np.ndarray | None = None


class Backend(Protocol):
    """Reads contiguous float32 tensors on the CPU, of fewer than 2**31 elements each: counts are 32-bit integers.

    Both methods take L tensors and their numbers of elements, (L,) int64. Squares are summed in float64, in which the
    square of a float32 neither overflows nor underflows. The implementations agree exactly on counts, and on sums up to
    float64 rounding.
    """

    def sum_squares(self, tensors: Sequence[Tensor], sizes: np.ndarray) -> Reading:
        """Sum the squares of each tensor's elements."""
        ...

    def count_exponents(self, tensors: Sequence[Tensor], sizes: np.ndarray) -> Reading:
        """Count each tensor's elements by sign and exponent, and sum their squares."""
        ...

    def prepare(self) -> None:
        """Compile everything now, or load what an earlier process compiled, instead of in the first step."""
        ...
