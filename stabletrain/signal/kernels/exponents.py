"""The counting itself, on the CPU: float32's nine upper bits of one tensor, compiled by numba.

Measured against the alternatives in docs/LOG.md: a table of four columns, so that one element need not wait for the
count of the one before it, runs at about one element per clock.
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
LINE = 16  # elements of a cache line
BLOCK = 2048  # elements, 8 kB: stay in the first cache between the two passes over them
AHEAD = 2 * 4 * BLOCK  # bytes: counting one block takes as long as fetching the one after the next
SUMMED = 64  # elements between two calls for memory: with 32 the compiler writes no vector instructions
SUM_AHEAD = 40 * 64  # bytes, where only squares are summed


def pointer_to(element: Any) -> Any:
    """Return a compiled function that takes an address, and returns a pointer to elements of a numba type."""

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


as_bits, as_floats = pointer_to(types.uint32), pointer_to(types.float32)


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


def _sum_one(address, size):
    """Sum up the squares of one tensor, fetching each line of memory forty lines before it is read."""
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
FREE_ORDER = {"reassoc", "contract"}  # the order of a sum is free, NaN is not
square_sum = compile_(_sum_block, fastmath=FREE_ORDER)
_num_zero = compile_(_count_zeros)
_num_nan = compile_(_count_nans)


def _count_one(address, size, table, counts, special):
    """Count one tensor: its table of four columns is worked on in the first cache. Returns the sum of squares."""
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
