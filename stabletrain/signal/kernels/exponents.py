"""The numba kernel for one tensor: counts of float32's nine upper bits, and the sum of squares.

Counts go to a table of four columns, so that an element does not wait for the count of the one before it. That takes
about one clock cycle per element; docs/LOG.md compares it with the alternatives.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import (
    carray,  # pyright: ignore[reportPrivateImportUsage]
    types,
)
from numba.extending import intrinsic

from stabletrain.signal.histogram import NUM_SIGNED_BINS
from stabletrain.signal.kernels.jit import compile_

SHIFT, ONE = np.uint32(23), np.uint32(1)
MAGNITUDE, INF = np.uint32(0x7FFFFFFF), np.uint32(0x7F800000)
LINE = 16  # elements in a cache line
BLOCK = 2048  # elements, 8 kB: stay in the L1 cache between the two passes over them
AHEAD = 2 * 4 * BLOCK  # bytes, two blocks: counting one block takes about as long as fetching one from memory
SUMMED = 64  # elements between two groups of prefetches: with 32, LLVM does not vectorize the loop
SUM_AHEAD = 40 * 64  # bytes to prefetch ahead where only squares are summed


def pointer_to(element: Any) -> Any:
    """Return a numba intrinsic that casts an address to a pointer to elements of a numba type."""

    @intrinsic
    def cast(context, address):  # numba's protocol: takes types, returns a signature and a code generator
        signature = types.CPointer(element)(types.int64)

        def generate(context, builder, signature, arguments):
            return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

        return signature, generate

    return cast


@intrinsic
def _prefetch(context, address):  # only a hint: prefetching past the end of a tensor is not an error
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


as_bits, as_floats = pointer_to(types.uint32), pointer_to(types.float32)


def _count_block(bits, table, ahead):
    for j in range(len(bits) // LINE):  # from 0: numba then omits checks for negative indices, for a third of the time
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


def _sum_one(address, size):
    """Sum the squares of one tensor, prefetching each cache line forty lines before it is read."""
    x = carray(as_floats(address), (size,), np.float32)
    total, end = 0.0, size // SUMMED * SUMMED
    for j in range(0, end, SUMMED):
        for k in range(0, SUMMED, LINE):
            _prefetch(address + 4 * (j + k) + SUM_AHEAD)  # pyright: ignore[reportCallIssue]
        part = 0.0
        for k in range(SUMMED):
            part += np.float64(x[j + k]) * np.float64(x[j + k])
        total += part
    for j in range(end, size):
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
FREE_ORDER = {"reassoc", "contract"}  # allows any order of summation, but still respects NaN and Inf
square_sum = compile_(_sum_block, fastmath=FREE_ORDER)
_num_zero = compile_(_count_zeros)
_num_nan = compile_(_count_nans)


def _count_one(address, size, table, counts, special):
    """Count one tensor into `counts` and `special`; return the sum of squares. `table`, (4, 512), is scratch space."""
    total = 0.0
    table[:] = 0
    for start in range(0, size, BLOCK):
        length, here = min(BLOCK, size - start), address + 4 * start
        total += square_sum(carray(as_floats(here), (length,), np.float32))
        _add_counts(carray(as_bits(here), (length,), np.uint32), table, here + AHEAD)
    for k in range(NUM_SIGNED_BINS):
        counts[k] = np.int32(table[0, k] + table[1, k] + table[2, k] + table[3, k])
    bits = carray(as_bits(address), (size,), np.uint32)
    num_tiny = counts[0] + counts[256]
    special[0] = num_tiny - _num_zero(bits) if num_tiny > 0 else 0
    special[1] = _num_nan(bits) if counts[255] + counts[511] > 0 else 0
    return total


count_tensor, sum_tensor = compile_(_count_one), compile_(_sum_one, fastmath=FREE_ORDER)
