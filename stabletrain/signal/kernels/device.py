"""Measuring on a GPU: one kernel launch for all layers, one copy to the host, and no synchronization in the step.

The kernel reads tensors in place on the current stream. Later work on that stream, such as the optimizer's step,
`zero_grad` or reusing freed memory, is therefore ordered after it. A program that writes gradients on another stream
must synchronize the two, as it must for the optimizer's step.

Copies between host and device use pinned memory from PyTorch's allocator, which reuses a block only after the copy has
completed.
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

WIDTHS = {torch.float32: 4, torch.float16: 2, torch.bfloat16: 1}  # dtypes that the kernel reads, and its codes for them
TABLES_KEPT = 64  # cached tables of addresses and of sizes; a step needs few, each about 50 KB per 1e8 elements
PIECE = 2**24  # elements counted at a time without the kernel, to bound the memory
COLUMNS = 64  # of the table of counts without the kernel: few atomic additions collide


@torch.no_grad()
def measure_on_device(tensors: Sequence[Tensor], histograms: bool) -> Callable[[], Arrays]:
    """Start measuring contiguous tensors of float32, bfloat16, float16 or float64, on one or several devices.

    float64 and CPU tensors are measured with PyTorch operations, and so is everything where Triton is missing or fails.
    That takes about twenty launches per tensor instead of one for all, but does not synchronize either.

    Args:
        tensors: What to measure.
        histograms: Whether to count exponents too.

    Returns:
        A function that waits for the results and returns them.
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
    """Return whether the kernel runs on a device; the first call launches it to find out."""
    if device.type != "cuda":
        return False
    try:
        measure_by_kernel([torch.zeros(1, device=device)], True)
    except Exception as error:  # no Triton, no C compiler, an unsupported GPU: training goes on
        warnings.warn(
            f"Triton does not run on {device} ({type(error).__name__}: {error}). Layers are measured with PyTorch "
            "operations instead, which takes more time per step.",
            stacklevel=2,
        )
        return False
    return True


def measure_by_kernel(tensors: Sequence[Tensor], histograms: bool) -> Callable[[], Arrays]:
    """Start measuring tensors on one device in one launch."""
    from stabletrain.signal.kernels import triton_kernel

    device, num = tensors[0].device, len(tensors)
    # Part of the tables' cache keys, since a cached upload is ordered only with later work on its own stream.
    stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
    places = tuple((x.data_ptr(), x.numel(), WIDTHS[x.dtype]) for x in tensors)
    sizes = tuple(size for _, size, _ in places)
    chunks, row_of_chunk = _chunk_table(sizes, device, stream)
    num_chunks = len(row_of_chunk) + len(row_of_chunk) % 2  # the rows are aligned to 16 bytes
    width = triton_kernel.NUM_ODD + NUM_SIGNED_BINS * histograms
    packed = torch.zeros(num_chunks + num * width, dtype=torch.int64, device=device)
    sums, rows = packed[:num_chunks].view(torch.float64), packed[num_chunks:]
    triton_kernel.launch_(_tensor_table(places, device, stream), chunks, sums, rows, histograms=histograms)
    receive = _send(packed)

    def read() -> Arrays:
        numbers = receive()
        rows = numbers[num_chunks:].reshape(num, width)
        sums = numbers[: len(row_of_chunk)].view(np.float64)
        squares = np.bincount(row_of_chunk, sums, num)  # sums in the order of the chunks
        nonfinite, special = rows[:, -3].copy(), rows[:, -2:].copy()
        with np.errstate(invalid="ignore"):  # no finite element: 0/0 = NaN
            rms = np.sqrt(squares / (np.array(sizes) - nonfinite))
        if not histograms:
            return Arrays(rms, nonfinite)
        counts = rows[:, :NUM_SIGNED_BINS].copy()
        counts[:, 0] -= -np.array(sizes) % triton_kernel.BLOCK  # the last block is padded with zeros
        return Arrays(rms, nonfinite, counts, special)

    return read


@lru_cache(TABLES_KEPT)
def _tensor_table(places: tuple[tuple[int, int, int], ...], device: torch.device, stream: int) -> Tensor:
    return _upload(np.array(places, np.int64), device)


@lru_cache(TABLES_KEPT)
def _chunk_table(sizes: tuple[int, ...], device: torch.device, stream: int) -> tuple[Tensor, np.ndarray]:
    """Return row and first element of each chunk, (C, 2), on the device, and the rows, (C,), on the host."""
    from stabletrain.signal.kernels.triton_kernel import CHUNK

    per_row = -(-np.array(sizes, np.int64) // CHUNK)
    rows = np.repeat(np.arange(len(sizes)), per_row)
    first_chunk = np.repeat(np.cumsum(per_row) - per_row, per_row)
    starts = (np.arange(len(rows)) - first_chunk) * CHUNK
    return _upload(np.stack([rows, starts], axis=1), device), rows


def measure_by_torch(tensors: Sequence[Tensor], histograms: bool) -> Callable[[], Arrays]:
    """Start measuring tensors on one device with PyTorch operations, none of which synchronizes."""
    receive = _send(torch.stack([_describe(x.reshape(-1), histograms) for x in tensors]))

    def read() -> Arrays:
        rows = receive()
        rms, nonfinite = rows[:, 0].copy().view(np.float64), rows[:, 1].copy()
        if not histograms:
            return Arrays(rms, nonfinite)
        return Arrays(rms, nonfinite, rows[:, 4:].copy(), rows[:, 2:4].copy())

    return read


def _describe(x: Tensor, histograms: bool) -> Tensor:
    """Return int64: the bits of the rms, number of Inf and NaN; with histograms also subnormals, NaN, 512 counts."""
    is_finite = x.isfinite()
    num_finite = is_finite.sum()
    finite = torch.where(is_finite, x, 0).double()
    scale = finite.new_ones(())
    if x.dtype is torch.float64 and x.numel():  # squares may leave the range
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
    """Return sign·256 + exponent; float64 values outside float32's range go to the outermost finite bins."""
    if x.dtype is not torch.float64:
        return (x.float().view(torch.int32) >> 23) & (NUM_SIGNED_BINS - 1)
    bits = x.view(torch.int64)
    exponents = (bits >> 52) & 0x7FF
    bins = (exponents - 1023 + 127).clamp(0, NONFINITE_BIN - 1)
    return torch.where(exponents == 0x7FF, NONFINITE_BIN, bins) + NUM_BINS * (bits < 0)


def _count(bins: Tensor) -> Tensor:
    """Return how often each bin occurs; deterministic, and without the synchronization of `bincount` and `histc`."""
    spread = bins + NUM_SIGNED_BINS * (torch.arange(len(bins), device=bins.device) % COLUMNS)
    table = bins.new_zeros(COLUMNS * NUM_SIGNED_BINS, dtype=torch.int64)
    return table.index_add_(0, spread, table.new_ones(()).expand(len(bins))).view(COLUMNS, -1).sum(0)


def _upload(table: np.ndarray, device: torch.device) -> Tensor:
    host = torch.from_numpy(table)
    return host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host


def _send(packed: Tensor) -> Callable[[], np.ndarray]:
    """Start copying to the host; the returned function waits for the copy to complete."""
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
    """Reassemble the results of groups of tensors in the order of their rows."""
    order = np.argsort([i for rows, _ in parts for i in rows])
    names = ("rms", "num_nonfinite", "counts", "special") if histograms else ("rms", "num_nonfinite")
    return Arrays(*(np.concatenate([getattr(part, name) for _, part in parts])[order] for name in names))
