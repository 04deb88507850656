"""Measuring on a GPU: one launch for all layers, one copy back, and nothing waits before the numbers are looked at.

The kernel reads the tensors where they lie. It runs on the current stream, so that what the program does to them
afterwards on that stream, be it the optimizer's step, `zero_grad` or memory given back and taken again, comes after
it. A program that writes gradients on another stream must order the two, as it must for the optimizer's step.

What travels between host and device lies in pinned memory of PyTorch's allocator, which gives a block out again only
when the copy from or to it is done.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import cache, lru_cache

import numpy as np
import torch
from torch import Tensor

from stabletrain.signal.histogram import NONFINITE_BIN, NUM_BINS, NUM_SIGNED_BINS
from stabletrain.signal.layer_statistics import Arrays

WIDTHS = {torch.float32: 4, torch.float16: 2, torch.bfloat16: 1}  # what the kernel reads, and its names for them
TABLES_KEPT = 64  # sets of addresses and of sizes: a step has few, each of about 50 KB per 1e8 elements
PIECE = 2**24  # elements whose bins are counted at a time without the kernel: bounds the memory that takes
COLUMNS = 64  # of that count's table: one element seldom waits for the count of another


@torch.no_grad()
def measure_on_device(tensors: Sequence[Tensor], histograms: bool) -> Callable[[], Arrays]:
    """Start measuring contiguous tensors of float32, bfloat16, float16 or float64, on one or several devices.

    float64, and what lies on the CPU, is measured by PyTorch's own operations, as is everything where Triton is missing
    or does not run: some twenty launches per tensor rather than one for all, which do not wait either.

    Args:
        tensors: What to measure.
        histograms: Whether to count exponents too.

    Returns:
        A function that waits for the numbers and returns them.
    """
    groups: dict[tuple[int, bool], list[int]] = {}
    for i, x in enumerate(tensors):
        groups.setdefault((x.get_device(), x.dtype in WIDTHS), []).append(i)
    parts = []
    for (_, is_readable), rows in groups.items():
        by_kernel = is_readable and has_kernel(tensors[rows[0]].device)
        measure = measure_by_kernel if by_kernel else measure_by_torch
        parts.append((rows, measure([tensors[i] for i in rows], histograms)))
    if len(parts) == 1:
        return parts[0][1]
    return lambda: _join([(rows, read()) for rows, read in parts], histograms)


@cache
def has_kernel(device: torch.device) -> bool:
    """Return whether the kernel runs on a device. Found out once, by starting it."""
    if device.type != "cuda":
        return False
    try:
        measure_by_kernel([torch.zeros(1, device=device)], True)
    except Exception as error:  # no Triton, no C compiler for it, a GPU it does not know: training goes on
        warnings.warn(
            f"Triton does not run on {device} ({type(error).__name__}: {error}). Layers are measured by PyTorch's own "
            "operations, which costs more of a step.",
            stacklevel=2,
        )
        return False
    return True


def measure_by_kernel(tensors: Sequence[Tensor], histograms: bool) -> Callable[[], Arrays]:
    """Start measuring tensors on one device in one launch."""
    from stabletrain.signal.kernels import triton_kernel

    device, num = tensors[0].device, len(tensors)
    stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0  # tables are ordered by it
    places = tuple((x.data_ptr(), x.numel(), WIDTHS[x.dtype]) for x in tensors)
    sizes = tuple(size for _, size, _ in places)
    chunks, row_of_chunk = _chunk_table(sizes, device, stream)
    num_chunks = len(row_of_chunk) + len(row_of_chunk) % 2  # the rows begin at a multiple of 16 bytes
    width = triton_kernel.NUM_ODD + NUM_SIGNED_BINS * histograms
    packed = torch.zeros(num_chunks + num * width, dtype=torch.int64, device=device)
    sums, rows = packed[:num_chunks].view(torch.float64), packed[num_chunks:]
    triton_kernel.launch_(_tensor_table(places, device, stream), chunks, sums, rows, histograms=histograms)
    receive = _send(packed)

    def read() -> Arrays:
        numbers = receive()
        rows = numbers[num_chunks:].reshape(num, width)
        sums = numbers[: len(row_of_chunk)].view(np.float64)
        squares = np.bincount(row_of_chunk, sums, num)  # adds up in the order of the chunks
        nonfinite, special = rows[:, -3].copy(), rows[:, -2:].copy()
        with np.errstate(invalid="ignore"):  # nothing finite: 0/0, which is NaN
            rms = np.sqrt(squares / (np.array(sizes) - nonfinite))
        if not histograms:
            return Arrays(rms, nonfinite)
        counts = rows[:, :NUM_SIGNED_BINS].copy()
        counts[:, 0] -= -np.array(sizes) % triton_kernel.BLOCK  # the last block is filled up with zeros
        return Arrays(rms, nonfinite, counts, special)

    return read


@lru_cache(TABLES_KEPT)
def _tensor_table(places: tuple[tuple[int, int, int], ...], device: torch.device, stream: int) -> Tensor:
    return _upload(np.array(places, np.int64), device)


@lru_cache(TABLES_KEPT)
def _chunk_table(sizes: tuple[int, ...], device: torch.device, stream: int) -> tuple[Tensor, np.ndarray]:
    """Return (C, 2) row and first element of each chunk on the device, and the rows (C,) on the host."""
    from stabletrain.signal.kernels.triton_kernel import CHUNK

    per_row = -(-np.array(sizes, np.int64) // CHUNK)
    rows = np.repeat(np.arange(len(sizes)), per_row)
    first_chunk = np.repeat(np.cumsum(per_row) - per_row, per_row)
    starts = (np.arange(len(rows)) - first_chunk) * CHUNK
    return _upload(np.stack([rows, starts], axis=1), device), rows


def measure_by_torch(tensors: Sequence[Tensor], histograms: bool) -> Callable[[], Arrays]:
    """Start measuring tensors on one device by PyTorch's own operations, none of which waits for the device."""
    receive = _send(torch.stack([_describe(x.reshape(-1), histograms) for x in tensors]))

    def read() -> Arrays:
        rows = receive()
        rms, nonfinite = rows[:, 0].copy().view(np.float64), rows[:, 1].copy()
        if not histograms:
            return Arrays(rms, nonfinite)
        return Arrays(rms, nonfinite, rows[:, 4:].copy(), rows[:, 2:4].copy())

    return read


def _describe(x: Tensor, histograms: bool) -> Tensor:
    """Return int64: the rms by its bits, number of Inf and NaN, and with histograms subnormals, NaN, 512 counts."""
    is_finite = x.isfinite()
    num_finite = is_finite.sum()
    finite = torch.where(is_finite, x, 0).double()
    scale = finite.new_ones(())
    if x.dtype is torch.float64 and x.numel():  # its squares may leave the range
        scale = finite.abs().amax().clamp(min=torch.finfo(torch.float64).tiny)
    rms = ((finite / scale).square().sum() / num_finite).sqrt() * scale
    columns = [rms.view(torch.int64), x.numel() - num_finite]
    if not histograms:
        return torch.stack(columns)
    counts, subnormals = x.new_zeros(NUM_SIGNED_BINS, dtype=torch.int64), x.new_zeros((), dtype=torch.int64)
    for piece in x.split(PIECE):
        bins = _bins(piece)
        counts += _count(bins)
        subnormals += ((bins % NUM_BINS == 0) & (piece != 0)).sum()
    return torch.cat([torch.stack([*columns, subnormals, x.isnan().sum()]), counts])


def _bins(x: Tensor) -> Tensor:
    """Return sign·256 + exponent, of float64 too: what lies beyond float32's range goes to the outermost finite bin."""
    if x.dtype is not torch.float64:
        return (x.float().view(torch.int32) >> 23) & (NUM_SIGNED_BINS - 1)
    bits = x.view(torch.int64)
    exponents = (bits >> 52) & 0x7FF
    bins = (exponents - 1023 + 127).clamp(0, NONFINITE_BIN - 1)
    return torch.where(exponents == 0x7FF, NONFINITE_BIN, bins) + NUM_BINS * (bits < 0)


def _count(bins: Tensor) -> Tensor:
    """Return how often each bin occurs; unlike `bincount` and `histc` it does not wait, and is deterministic."""
    spread = bins + NUM_SIGNED_BINS * (torch.arange(len(bins), device=bins.device) % COLUMNS)
    table = bins.new_zeros(COLUMNS * NUM_SIGNED_BINS, dtype=torch.int64)
    return table.index_add_(0, spread, table.new_ones(()).expand(len(bins))).view(COLUMNS, -1).sum(0)


def _upload(table: np.ndarray, device: torch.device) -> Tensor:
    host = torch.from_numpy(table)
    return host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host


def _send(packed: Tensor) -> Callable[[], np.ndarray]:
    """Start copying to the host; the returned function waits until that is done."""
    if not packed.is_cuda:
        return packed.numpy
    host = torch.empty(packed.shape, dtype=packed.dtype, pin_memory=True)
    host.copy_(packed, non_blocking=True)
    done = torch.cuda.Event()
    done.record(torch.cuda.current_stream(packed.device))

    def receive() -> np.ndarray:
        done.synchronize()
        return host.numpy()

    return receive


def _join(parts: Sequence[tuple[list[int], Arrays]], histograms: bool) -> Arrays:
    """Put what was measured of each group of tensors where its rows belong."""
    order = np.argsort([i for rows, _ in parts for i in rows])
    names = ("rms", "num_nonfinite", "counts", "special") if histograms else ("rms", "num_nonfinite")
    return Arrays(*(np.concatenate([getattr(part, name) for _, part in parts])[order] for name in names))
