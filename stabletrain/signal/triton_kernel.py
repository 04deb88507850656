"""The counting itself, on a GPU: all tensors in one launch, each element read once. Needs Triton."""

from __future__ import annotations

from typing import Any

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor

from stabletrain.signal.exponents import NUM_SIGNED_BINS

NUM_ODD = 3  # columns after the bins: Inf and NaN, subnormals, NaN
BLOCK = 2048  # elements at a time: 16 a thread, so that two accumulators stay in registers
CHUNK = 16 * BLOCK  # elements per program; at most 255 blocks, as one byte counts them
OPTIONS = {"num_warps": 4, "enable_fp_fusion": True}  # fused or not, the square of a float32 is exact in float64


@triton.jit
def _load_bits(address, index, inside, width):
    """Load elements as the bits of a float32; beyond the end zeros. The width: 4 float32, 2 float16, 1 bfloat16."""
    if width == 4:
        bits = tl.load(address.to(tl.pointer_type(tl.int32)) + index, mask=inside, other=0)
    else:
        short = tl.load(address.to(tl.pointer_type(tl.int16)) + index, mask=inside, other=0)
        if width == 1:
            bits = short.to(tl.int32) << 16
        else:  # the sign apart: widening may lose that of a NaN
            wide = short.to(tl.float16, bitcast=True).to(tl.float32).to(tl.int32, bitcast=True)
            bits = (wide & 0x7FFFFFFF) | ((short.to(tl.int32) & 0x8000) << 16)
    return bits


@triton.jit
def measure_chunk(
    tensors, chunks, sums, rows, COUNTS: tl.constexpr, BINS: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr
):
    """Measure one chunk of one tensor.

    Args:
        tensors: (L, 3) int64: address, number of elements, width as in `_load_bits`.
        chunks: (C, 2) int64: row in `tensors`, first element.
        sums: (C,) float64, filled: the squares of the finite elements.
        rows: (L, 3) int64, or (L, 515) with the bins before: added to. Integers add up alike in any order.
        COUNTS: Whether to count exponents too.
        BINS: 512.
        CHUNK: Elements per program, a multiple of `BLOCK`.
        BLOCK: Elements at a time.
    """
    program = tl.program_id(0)
    row = tl.load(chunks + 2 * program)
    start = tl.load(chunks + 2 * program + 1)
    address = tl.load(tensors + 3 * row)
    size = tl.load(tensors + 3 * row + 1)
    width = tl.load(tensors + 3 * row + 2)
    lanes = tl.arange(0, BLOCK)
    squares = tl.zeros((BLOCK,), tl.float64)
    odd = tl.zeros((BLOCK,), tl.int32)  # three counts per lane, a byte each
    table = tl.zeros((BINS,), tl.int32)
    stop = tl.minimum(start + CHUNK, size)
    while start < stop:  # not `range`, which older interpreters of Triton do not run over tensors
        index = start + lanes
        bits = _load_bits(address, index, index < size, width)
        magnitude = bits & 0x7FFFFFFF
        is_finite = magnitude < 0x7F800000
        x = tl.where(is_finite, bits, 0).to(tl.float32, bitcast=True).to(tl.float64)  # no square leaves its range
        squares += x * x
        odd += tl.where(is_finite, 0, 1)
        odd += tl.where((magnitude > 0) & (magnitude < 0x800000), 1 << 8, 0)
        odd += tl.where(magnitude > 0x7F800000, 1 << 16, 0)
        if COUNTS:
            table += tl.histogram((bits >> 23) & (BINS - 1), BINS)
        start += BLOCK
    tl.store(sums + program, tl.sum(squares))
    base = rows + row * 3
    if COUNTS:
        base = rows + row * (BINS + 3)
        bins = tl.arange(0, BINS)
        tl.atomic_add(base + bins, table.to(tl.int64), mask=table > 0, sem="relaxed")
        base += BINS
    for column in tl.static_range(3):
        num = tl.sum((odd >> (8 * column)) & 255)
        tl.atomic_add(base + column, num.to(tl.int64), mask=num > 0, sem="relaxed")


def launch_(tensors: Tensor, chunks: Tensor, sums: Tensor, rows: Tensor, *, histograms: bool) -> None:
    """Start the kernel on the current stream: fills `sums`, adds to `rows`, waits for nothing."""
    if len(chunks):
        grid = (len(chunks),)
        kernel: Any = measure_chunk
        with torch.cuda.device_of(tensors):
            kernel[grid](tensors, chunks, sums, rows, histograms, NUM_SIGNED_BINS, CHUNK, BLOCK, **OPTIONS)
