"""The CPU backend without numba: float32's upper nine bits counted by `np.bincount`, squares summed by `np.sum`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch import Tensor

from stabletrain.signal.histogram import NONFINITE_BIN, NUM_BINS, NUM_SIGNED_BINS, ZERO_BIN
from stabletrain.signal.kernels.reading import Reading

BLOCK = 2**15  # elements whose float64 squares or int64 bins, 256 KiB, stay in the second-level cache
MANTISSA_BITS = np.uint32(23)


def sum_squares(tensors: Sequence[Tensor], sizes: np.ndarray) -> Reading:
    """See `Backend.sum_squares`."""
    arrays = [_as_array(x) for x in tensors]
    return Reading(*_sum_finite_squares(arrays, np.array([_sum_squares(x) for x in arrays], np.float64)))


def count_exponents(tensors: Sequence[Tensor], sizes: np.ndarray) -> Reading:
    """See `Backend.count_exponents`."""
    arrays = [_as_array(x) for x in tensors]
    counts, special = np.zeros((len(arrays), NUM_SIGNED_BINS), np.int32), np.zeros((len(arrays), 2), np.int64)
    squares = np.zeros(len(arrays))
    for i, x in enumerate(arrays):
        for block in _blocks(x):
            counts[i] += np.bincount(block.view(np.uint32) >> MANTISSA_BITS, minlength=NUM_SIGNED_BINS)
        squares[i] = _sum_squares(x)
        num_tiny = counts[i, ZERO_BIN] + counts[i, NUM_BINS + ZERO_BIN]
        special[i, 0] = num_tiny and num_tiny - (x.size - np.count_nonzero(x))
        num_nonfinite = counts[i, NONFINITE_BIN] + counts[i, NUM_BINS + NONFINITE_BIN]
        special[i, 1] = num_nonfinite and np.count_nonzero(np.isnan(x))
    return Reading(*_sum_finite_squares(arrays, squares), counts, special)


def prepare() -> None:
    """Do nothing: there is nothing to compile."""


def _as_array(x: Tensor) -> np.ndarray:
    return x.detach().reshape(-1).numpy()


def _blocks(x: np.ndarray) -> Iterator[np.ndarray]:
    return (x[start : start + BLOCK] for start in range(0, x.size, BLOCK))


def _sum_squares(x: np.ndarray) -> float:
    with np.errstate(invalid="ignore"):  # signaling NaN
        return sum(float(np.square(block, dtype=np.float64).sum()) for block in _blocks(x))


def _sum_finite_squares(arrays: Sequence[np.ndarray], squares: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Return sums of squares over the finite elements, and the numbers of others; None if there are none."""
    bad = np.flatnonzero(~np.isfinite(squares))
    if not bad.size:
        return squares, None
    num_nonfinite = np.zeros(len(arrays), np.int64)
    for i in bad.tolist():
        finite = arrays[i][np.isfinite(arrays[i])]
        squares[i], num_nonfinite[i] = _sum_squares(finite), arrays[i].size - finite.size
    return squares, num_nonfinite
