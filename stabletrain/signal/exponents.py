"""The counting itself, on the CPU: float32's nine upper bits, many tensors in one call, compiled by numba.

Measured against the alternatives in docs/LOG.md: a table of four columns, so that one element need not wait for the
count of the one before it, runs at about one element per clock.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import (
    carray,  # pyright: ignore[reportPrivateImportUsage]
    njit,
    types,
)
from numba.extending import intrinsic

NUM_SIGNED_BINS = 512  # sign and exponent
SHIFT, ONE = np.uint32(23), np.uint32(1)
MAGNITUDE, INF = np.uint32(0x7FFFFFFF), np.uint32(0x7F800000)
LINE = 16  # elements of a cache line
BLOCK = 2048  # elements, 8 kB: stay in the first cache between the two passes over them
AHEAD = 2 * 4 * BLOCK  # bytes: counting one block takes as long as fetching the one after the next
PART = 2**30  # elements counted in columns of 32 bits


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


@intrinsic
def _prefetch(context, address):  # a hint: reading past the end of a tensor is no error
    signature = types.void(types.int64)

    def generate(context, builder, signature, arguments):
        byte = ir.IntType(8).as_pointer()
        flag = ir.IntType(32)
        name = "llvm.prefetch.p0"
        kind = ir.FunctionType(ir.VoidType(), [byte, flag, flag, flag])
        function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
        to_read, keep, of_data = flag(0), flag(3), flag(1)
        builder.call(function, [builder.inttoptr(arguments[0], byte), to_read, keep, of_data])
        return context.get_dummy_value()

    return signature, generate


_as_bits = _pointer_to(types.uint32)
_as_floats = _pointer_to(types.float32)


def _count_block(bits, table, ahead):
    for j in range(len(bits) // LINE):  # from 0: numba then knows that no index is negative, a third of the time
        _prefetch(ahead + 4 * LINE * j)  # pyright: ignore[reportCallIssue]
        for k in range(0, LINE, 4):
            table[0, bits[LINE * j + k] >> SHIFT] += ONE
            table[1, bits[LINE * j + k + 1] >> SHIFT] += ONE
            table[2, bits[LINE * j + k + 2] >> SHIFT] += ONE
            table[3, bits[LINE * j + k + 3] >> SHIFT] += ONE
    for j in range(len(bits) // LINE * LINE, len(bits)):
        table[0, bits[j] >> SHIFT] += ONE


def _sum_block(x):
    total = 0.0
    for j in range(len(x)):
        total += np.float64(x[j]) * np.float64(x[j])
    return total


def _count_zeros(bits):
    num = 0
    for j in range(len(bits)):
        num += (bits[j] & MAGNITUDE) == 0
    return num


def _count_nans(bits):
    num = 0
    for j in range(len(bits)):
        num += (bits[j] & MAGNITUDE) > INF
    return num


_add_counts = compile_(_count_block)
_square_sum = compile_(_sum_block, fastmath={"reassoc", "contract"})  # the order of a sum is free, NaN is not
_num_zero = compile_(_count_zeros)
_num_nan = compile_(_count_nans)


def _count(addresses, sizes, sums, counts, special):
    """Count sign and exponent of each tensor's elements, and sum up their squares, block by block in the cache.

    Args:
        addresses: (L,) int64, where each tensor's float32 elements begin, one after the other.
        sizes: (L,) int64, number of elements.
        sums: (L,) float64, filled: sums of squares, not finite where an element is not.
        counts: (L, 512) int64, filled: bin sign·256 + exponent.
        special: (L, 2) int64, filled: subnormals, NaN.

    Returns:
        Whether all elements are finite.
    """
    all_finite = True
    table = np.zeros((4, 512), np.uint32)
    for i in range(len(addresses)):
        sums[i], counts[i] = 0.0, 0
        for part in range(0, sizes[i], PART):
            table[:] = 0
            for start in range(part, min(part + PART, sizes[i]), BLOCK):
                size = min(BLOCK, sizes[i] - start)
                sums[i] += _square_sum(carray(_as_floats(addresses[i] + 4 * start), (size,), np.float32))
                address = addresses[i] + 4 * start
                _add_counts(carray(_as_bits(address), (size,), np.uint32), table, address + AHEAD)
            for k in range(512):
                counts[i, k] += np.int64(table[0, k]) + table[1, k] + table[2, k] + table[3, k]
        bits = carray(_as_bits(addresses[i]), (sizes[i],), np.uint32)
        num_tiny, num_nonfinite = counts[i, 0] + counts[i, 256], counts[i, 255] + counts[i, 511]
        special[i, 0] = num_tiny - _num_zero(bits) if num_tiny > 0 else 0
        special[i, 1] = _num_nan(bits) if num_nonfinite > 0 else 0
        all_finite &= num_nonfinite == 0
    return all_finite


def _sum_squares(addresses, sizes, sums):
    """Sum up the squares of each tensor's elements in float64, in which no float32's square over- or underflows.

    Returns:
        Whether all elements are finite.
    """
    all_finite = True
    for i in range(len(addresses)):
        sums[i] = _square_sum(carray(_as_floats(addresses[i]), (sizes[i],), np.float32))
        all_finite &= np.isfinite(sums[i])
    return all_finite


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


count_exponents_ = compile_(_count)
sum_squares_ = compile_(_sum_squares)
sum_finite_squares_ = compile_(_sum_finite_squares)
find_quantiles_ = compile_(_find_quantiles)


def prepare() -> None:
    """Compile all of them now, or load what an earlier process compiled, rather than in the first step."""
    x = np.array([1.0, np.inf], np.float32)
    addresses, sizes = np.array([x.ctypes.data]), np.array([2])
    counts, sums = np.empty((1, NUM_SIGNED_BINS), np.int64), np.empty(1)
    sum_squares_(addresses, sizes, sums)
    sum_finite_squares_(addresses, sizes, sums, np.empty(1, np.int64))
    count_exponents_(addresses, sizes, sums, counts, np.empty((1, 2), np.int64))
    find_quantiles_(counts, np.array([0.5]), np.empty((1, 1)))
