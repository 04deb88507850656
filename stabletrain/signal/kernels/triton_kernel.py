"""The Triton kernel: counts and sums of squares of all tensors in one launch, reading each element once."""

from __future__ import annotations

from typing import Any

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor

from stabletrain.signal.histogram import NUM_SIGNED_BINS

NUM_ODD = 3  # columns after the bins: Inf and NaN, subnormals, NaN
BLOCK = 1024  # elements at a time: 8 per thread, for which 128 registers are enough, with Triton 3.7 too
CHUNK = 32 * BLOCK  # elements per program; at most 255 blocks, since counts per lane are one byte
SLOTS = 64  # bins per sign of the narrow table: before Triton 3.8, `tl.histogram` takes longer the more bins it has
OPTIONS = {"num_warps": 4, "enable_fp_fusion": True}  # fused or not, the square of a float32 is exact in float64


@triton.jit
def _load_bits(address, index, inside, width):
    """Load elements as bits of float32, zeros past the end. Width is 4 for float32, 2 for float16, 1 for bfloat16."""
    if width == 4:
        bits = tl.load(address.to(tl.pointer_type(tl.int32)) + index, mask=inside, other=0)
    else:
        short = tl.load(address.to(tl.pointer_type(tl.int16)) + index, mask=inside, other=0)
        if width == 1:
            bits = short.to(tl.int32) << 16
        else:  # the sign separately: conversion may lose that of a NaN
            wide = short.to(tl.float16, bitcast=True).to(tl.float32).to(tl.int32, bitcast=True)
            bits = (wide & 0x7FFFFFFF) | ((short.to(tl.int32) & 0x8000) << 16)
    return bits


@triton.jit
def _lowest_slot(exponents, SLOTS: tl.constexpr, UNKNOWN: tl.constexpr):
    """Return the exponent below that of slot 1, such that a quarter of the slots lies above the largest exponent."""
    largest = tl.max(tl.where(exponents < 255, exponents, 0))
    return tl.where(largest == 0, UNKNOWN, largest + SLOTS // 4 - SLOTS)


@triton.jit
def _count(bits, narrow, table, lowest, BINS: tl.constexpr, SLOTS: tl.constexpr):
    """Count one block, in the narrow table if it has slots for all exponents; the chunk's first block sets them."""
    exponents = (bits >> 23) & 255
    if lowest == -BINS:
        lowest = _lowest_slot(exponents, SLOTS, -BINS)
    slots = tl.where(exponents == 0, 0, exponents - lowest)  # slot 0: zeros and subnormals
    is_outside = (exponents > 0) & ((slots < 1) | (slots >= SLOTS))
    if tl.max(is_outside.to(tl.int32)) == 0:
        narrow += tl.histogram(slots + tl.where(bits < 0, SLOTS, 0), 2 * SLOTS)
    else:
        table += tl.histogram(exponents + tl.where(bits < 0, BINS // 2, 0), BINS)
    return narrow, table, lowest


@triton.jit
def _add_counts(row, narrow, table, lowest, BINS: tl.constexpr, SLOTS: tl.constexpr):
    tl.atomic_add(row + tl.arange(0, BINS), table.to(tl.int64), mask=table > 0, sem="relaxed")
    sign, slot = tl.arange(0, 2 * SLOTS) // SLOTS, tl.arange(0, 2 * SLOTS) % SLOTS
    bins = sign * (BINS // 2) + tl.where(slot == 0, 0, slot + lowest)
    tl.atomic_add(row + bins, narrow.to(tl.int64), mask=narrow > 0, sem="relaxed")


@triton.jit
def measure_chunk(
    tensors,
    chunks,
    sums,
    rows,
    COUNTS: tl.constexpr,
    BINS: tl.constexpr,
    SLOTS: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Measure one chunk of one tensor.

    Args:
        tensors: (L, 3) int64: address, number of elements, width as in `_load_bits`.
        chunks: (C, 2) int64: row in `tensors`, first element.
        sums: (C,) float64, output: sum of squares over the finite elements.
        rows: (L, 3) int64, or (L, 515) with the bins first; added to. Integer sums do not depend on the order.
        COUNTS: Whether to count exponents too.
        BINS: 512.
        SLOTS: Half the bins of the narrow table: 64.
        CHUNK: Elements per program, a multiple of `BLOCK`.
        BLOCK: Elements read at a time.
    """
    program = tl.program_id(0)
    row = tl.load(chunks + 2 * program)
    start = tl.load(chunks + 2 * program + 1)
    address = tl.load(tensors + 3 * row)
    size = tl.load(tensors + 3 * row + 1)
    width = tl.load(tensors + 3 * row + 2)
    lanes = tl.arange(0, BLOCK)
    squares = tl.zeros((BLOCK,), tl.float64)
    odd = tl.zeros((BLOCK,), tl.int32)  # three counts per lane, one byte each
    table = tl.zeros((BINS,), tl.int32)
    narrow = tl.zeros((2 * SLOTS,), tl.int32)
    lowest = -BINS  # unknown so far
    stop = tl.minimum(start + CHUNK, size)
    while start < stop:  # not `range`, which older Triton interpreters do not support over tensors
        index = start + lanes
        bits = _load_bits(address, index, index < size, width)
        magnitude = bits & 0x7FFFFFFF
        is_finite = magnitude < 0x7F800000
        x = tl.where(is_finite, bits, 0).to(tl.float32, bitcast=True).to(tl.float64)  # squares stay in range
        squares += x * x
        odd += tl.where(is_finite, 0, 1)
        odd += tl.where((magnitude > 0) & (magnitude < 0x800000), 1 << 8, 0)
        odd += tl.where(magnitude > 0x7F800000, 1 << 16, 0)
        if COUNTS:
            narrow, table, lowest = _count(bits, narrow, table, lowest, BINS, SLOTS)
        start += BLOCK
    tl.store(sums + program, tl.sum(squares))
    base = rows + row * 3
    if COUNTS:
        base = rows + row * (BINS + 3)
        _add_counts(base, narrow, table, lowest, BINS, SLOTS)
        base += BINS
    for column in tl.static_range(3):
        num = tl.sum((odd >> (8 * column)) & 255)
        tl.atomic_add(base + column, num.to(tl.int64), mask=num > 0, sem="relaxed")


def launch_(tensors: Tensor, chunks: Tensor, sums: Tensor, rows: Tensor, *, histograms: bool) -> None:
    """Launch the kernel on the current stream: fills `sums` and adds to `rows`, without synchronizing."""
    if len(chunks):
        grid = (len(chunks),)
        kernel: Any = measure_chunk
        with torch.cuda.device_of(tensors):
            kernel[grid](tensors, chunks, sums, rows, histograms, NUM_SIGNED_BINS, SLOTS, CHUNK, BLOCK, **OPTIONS)
