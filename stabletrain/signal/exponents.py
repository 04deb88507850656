"""The counting itself, on the CPU: float32's nine upper bits, many tensors in one call, compiled by numba.

Measured against the alternatives in docs/LOG.md: a table of four columns, so that one element need not wait for the
count of the one before it, runs at about one element per clock.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import (
    carray,  # pyright: ignore[reportPrivateImportUsage]
    njit,
    types,
)
from numba.extending import intrinsic

NUM_SIGNED_BINS = 512  # sign and exponent
INF_BITS = 0x7F800000


def compile_(function: Callable[..., Any], **options: Any) -> Any:
    """Compile, and keep the result beside the source; without that where nothing can be written."""
    try:
        return njit(function, cache=True, nogil=True, **options)
    except RuntimeError:  # a read-only file system: compiled anew in each process, about a second
        return njit(function, nogil=True, **options)


def _pointer_to(element: Any) -> Any:
    @intrinsic
    def cast(context, address):  # numba's own form: types in, a signature and a code generator out
        signature = types.CPointer(element)(types.int64)

        def generate(context, builder, signature, arguments):
            return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

        return signature, generate

    return cast


_as_bits = _pointer_to(types.uint32)
_as_floats = _pointer_to(types.float32)


def _count(addresses, sizes, counts, special):
    """Count sign and exponent of each tensor's elements.

    Args:
        addresses: (L,) int64, where each tensor's float32 elements begin, one after the other.
        sizes: (L,) int64, number of elements.
        counts: (L, 512) int64, filled: bin sign·256 + exponent.
        special: (L, 2) int64, filled: subnormals, NaN.
    """
    table = np.zeros((4, 512), np.uint32)
    for i in range(len(addresses)):
        bits = carray(_as_bits(addresses[i]), (sizes[i],), np.uint32)
        counts[i] = 0
        for start in range(0, sizes[i], 2**30):  # the table's columns are of 32 bits
            stop = min(start + 2**30, sizes[i])
            table[:] = 0
            whole = start + (stop - start) // 4 * 4
            for j in range(start, whole, 4):
                table[0, bits[j] >> np.uint32(23)] += np.uint32(1)
                table[1, bits[j + 1] >> np.uint32(23)] += np.uint32(1)
                table[2, bits[j + 2] >> np.uint32(23)] += np.uint32(1)
                table[3, bits[j + 3] >> np.uint32(23)] += np.uint32(1)
            for j in range(whole, stop):
                table[0, bits[j] >> np.uint32(23)] += np.uint32(1)
            for k in range(512):
                counts[i, k] += np.int64(table[0, k]) + table[1, k] + table[2, k] + table[3, k]
        special[i] = 0
        if counts[i, 0] + counts[i, 256] > 0:
            special[i, 0] = counts[i, 0] + counts[i, 256] - _num_zero(bits)
        if counts[i, 255] + counts[i, 511] > 0:
            special[i, 1] = _num_nan(bits)


def _count_zeros(bits):
    num = 0
    for j in range(len(bits)):
        num += (bits[j] & np.uint32(0x7FFFFFFF)) == 0
    return num


def _count_nans(bits):
    num = 0
    for j in range(len(bits)):
        num += (bits[j] & np.uint32(0x7FFFFFFF)) > np.uint32(INF_BITS)
    return num


def _sum_squares(addresses, sizes, sums):
    """Sum up the squares of each tensor's elements in float64, in which no float32's square over- or underflows."""
    for i in range(len(addresses)):
        x = carray(_as_floats(addresses[i]), (sizes[i],), np.float32)
        total = 0.0
        for j in range(sizes[i]):
            total += np.float64(x[j]) * np.float64(x[j])
        sums[i] = total


def _sum_finite_squares(addresses, sizes, sums, nonfinite):
    """As `_sum_squares`, where that found Inf or NaN: over the finite elements, the others counted."""
    for i in range(len(addresses)):
        x = carray(_as_floats(addresses[i]), (sizes[i],), np.float32)
        nonfinite[i] = 0
        if np.isfinite(sums[i]):
            continue
        sums[i] = 0.0
        for j in range(sizes[i]):
            if np.isfinite(x[j]):
                sums[i] += np.float64(x[j]) * np.float64(x[j])
            else:
                nonfinite[i] += 1


def _find_quantiles(counts, shares, found):
    """Find quantiles of |x| over the finite elements, as `Histogram.quantile` does.

    Args:
        counts: (L, 512) int64.
        shares: (Q,) float64, 0 to 1.
        found: (L, Q) float64, filled; NaN where no element is finite.
    """
    for i in range(len(counts)):
        total = 0
        for k in range(255):
            total += counts[i, k] + counts[i, k + 256]
        for q in range(len(shares)):
            if total == 0:
                found[i, q] = np.nan
                continue
            target, below, k = shares[q] * total, 0, 0
            here = counts[i, 0] + counts[i, 256]
            while here == 0 or below + here < target:
                below += here
                k += 1
                here = counts[i, k] + counts[i, k + 256]
            share = min(max((target - below) / here, 0.0), 1.0)
            found[i, q] = 0.0 if k == 0 else 2.0 ** (k - 127 + share)


_num_zero = compile_(_count_zeros)
_num_nan = compile_(_count_nans)
count_exponents_ = compile_(_count)
sum_squares_ = compile_(_sum_squares, fastmath={"reassoc", "contract"})  # the order of a sum is free, NaN is not
sum_finite_squares_ = compile_(_sum_finite_squares)
find_quantiles_ = compile_(_find_quantiles)


def prepare() -> None:
    """Compile all of them now, or load what an earlier process compiled, rather than in the first step."""
    x = np.array([1.0, np.inf], np.float32)
    addresses, sizes = np.array([x.ctypes.data]), np.array([2])
    counts, sums = np.empty((1, NUM_SIGNED_BINS), np.int64), np.empty(1)
    sum_squares_(addresses, sizes, sums)
    sum_finite_squares_(addresses, sizes, sums, np.empty(1, np.int64))
    count_exponents_(addresses, sizes, counts, np.empty((1, 2), np.int64))
    find_quantiles_(counts, np.array([0.5]), np.empty((1, 1)))
