"""Measuring tensors, many at once: counts by exponent and the root mean square. Observes, changes nothing."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from stabletrain.signal.histogram import NONFINITE_BIN, NUM_BINS, Histogram
from stabletrain.signal.layer_statistics import Arrays, Measures

ON_DEVICE = (torch.float32, torch.bfloat16, torch.float16, torch.float64)  # measured on a GPU without being converted


def prepare() -> None:
    """Compile what measuring needs, or load what an earlier process compiled, rather than in the first step."""
    _load().prepare()
    if torch.cuda.is_initialized():  # else it may never be, or in other processes
        from stabletrain.signal.kernels.device import has_kernel

        has_kernel(torch.device("cuda", torch.cuda.current_device()))


def measure_tensors(layers: Sequence[str], tensors: Sequence[Tensor], *, histograms: bool) -> Measures:
    """Measure tensors of any floating dtype, shape and device; of sparse ones the values, of complex ones |x|.

    float32 on the CPU is read where it lies; bfloat16 and float16 are widened to float32, which is exact. float64 is
    binned by its own exponent; finite values beyond float32's range go to the outermost finite bins. On a GPU nothing
    waits, save for sparse tensors: the numbers are there when they are first looked at.

    Args:
        layers: Names, one for each tensor.
        tensors: What to measure.
        histograms: Whether to count exponents too.
    """
    found = measure_plain(layers, tensors, histograms=histograms)
    return measure_others(layers, tensors, histograms=histograms) if found is None else found


def measure_plain(layers: Sequence[str], tensors: Sequence[Tensor], *, histograms: bool) -> Measures | None:
    """Measure as `measure_tensors` does what can be read where it lies; None if a tensor cannot.

    That is float32, contiguous, on the CPU, and no subclass of `Tensor`. Asked on every step, right after a backward
    pass: a list takes less time there than `map`, whose parts the processor has to fetch from memory first.
    """
    float32, strided = torch.float32, torch.strided
    if not all(
        [
            type(x) is Tensor and x.dtype is float32 and x.layout is strided and x.is_cpu and x.is_contiguous()
            for x in tensors
        ]
    ):
        return None
    pieces = _cut(tuple([x.numel() for x in tensors]), (_kernels or _load()).LARGEST)
    return Measures(layers, pieces.sizes, _measure_floats(tensors, pieces, histograms), with_counts=histograms)


def measure_others(layers: Sequence[str], tensors: Sequence[Tensor], *, histograms: bool) -> Measures:
    """Measure as `measure_tensors` does, whatever the tensors are; what could be read where it lies takes longer."""
    with torch.no_grad():
        plain = [_plain(x) for x in tensors]
    sizes = np.fromiter((x.numel() for x in plain), np.int64, len(plain))
    if any(x.is_cuda for x in plain):
        from stabletrain.signal.kernels.device import measure_on_device

        arrays = measure_on_device(plain, histograms)
        return Measures(layers, sizes, arrays, with_counts=histograms, on_device=True)
    floats = [i for i, x in enumerate(plain) if x.dtype is torch.float32]
    arrays = _empty(len(plain), histograms)
    pieces = _cut(tuple(sizes[floats]), (_kernels or _load()).LARGEST)
    _assign(arrays, floats, _measure_floats([plain[i] for i in floats], pieces, histograms)())
    for i in sorted(set(range(len(plain))) - set(floats)):
        _assign(arrays, [i], measure_doubles(plain[i].numpy(), histograms))
    return Measures(layers, sizes, arrays, with_counts=histograms)


def _plain(x: Tensor) -> Tensor:
    """Return the elements, contiguous: float32 or float64 on the CPU, one of `ON_DEVICE` on a GPU."""
    if x.is_cuda and x.dtype in ON_DEVICE and x.layout is torch.strided and x.is_contiguous():
        return x
    x = x.detach()
    if x.layout is not torch.strided:
        x = x.coalesce().values() if x.layout is torch.sparse_coo else x.values()
    if x.is_complex():
        x = x.abs()
    x = x if x.is_cuda else x.cpu()
    kept = ON_DEVICE if x.is_cuda else (torch.float64,)
    return x.to(x.dtype if x.dtype in kept else torch.float32).contiguous()


class _Pieces(NamedTuple):
    """Tensors as pieces whose counts fit in 32 bits: a piece is a tensor, save where one is larger."""

    sizes: np.ndarray  # of the tensors
    lengths: np.ndarray  # of the pieces
    cuts: tuple[np.ndarray, np.ndarray, np.ndarray] | None  # each piece's tensor and offset in bytes; first pieces


@functools.lru_cache(maxsize=16)
def _cut(sizes: tuple[int, ...], largest: int) -> _Pieces:
    """Return how tensors are read; a model's sizes are the same on every step."""
    whole = np.array(sizes, np.int64)
    if whole.max(initial=0) <= largest:
        return _Pieces(whole, whole, None)
    nums = np.maximum(-(-whole // largest), 1)
    firsts = np.concatenate([[0], np.cumsum(nums)[:-1]])
    place = np.arange(nums.sum()) - np.repeat(firsts, nums)
    lengths = np.minimum(np.repeat(whole, nums) - place * largest, largest)
    return _Pieces(whole, lengths, (np.repeat(np.arange(len(whole)), nums), 4 * largest * place, firsts))


def _measure_floats(tensors: Sequence[Tensor], pieces: _Pieces, histograms: bool) -> Callable[[], Arrays]:
    """Read the tensors now; what follows from the sums is worked out when it is asked for."""
    kernels = _kernels or _load()
    addresses = np.array([x.data_ptr() for x in tensors], np.int64)
    if pieces.cuts is not None:
        addresses = addresses[pieces.cuts[0]] + pieces.cuts[1]
    lengths = pieces.lengths
    num = len(lengths)
    sums, nonfinite = np.empty(num), None
    counts = np.empty((num, 2 * NUM_BINS), np.int32) if histograms else None
    special = np.empty((num, 2), np.int64) if histograms else None
    if counts is not None and special is not None:
        all_finite = kernels.count_exponents_(addresses, lengths, sums, counts, special)
    else:
        all_finite = kernels.sum_squares_(addresses, lengths, sums)
    if not all_finite:
        nonfinite = np.zeros(num, np.int64)
        kernels.sum_finite_squares_(addresses, lengths, sums, nonfinite)
    if pieces.cuts is not None:
        add_up: Any = np.add.reduceat
        firsts = pieces.cuts[2]
        sums, nonfinite = add_up(sums, firsts), None if nonfinite is None else add_up(nonfinite, firsts)
        if counts is not None and special is not None:
            counts = add_up(counts, firsts, axis=0, dtype=np.int64)
            special = add_up(special, firsts, axis=0)

    def finish() -> Arrays:
        bad = np.zeros(len(pieces.sizes), np.int64) if nonfinite is None else nonfinite
        with np.errstate(invalid="ignore"):  # nothing finite: 0/0, which is NaN
            return Arrays(np.sqrt(sums / (pieces.sizes - bad)), bad, counts, special)

    return finish


_kernels: Any = None


def _load() -> Any:
    """Return the compiled part, whose import takes half a second; an import statement would take 20 us a step."""
    global _kernels
    from stabletrain.signal.kernels import counting

    _kernels = counting
    return counting


def measure_doubles(x: np.ndarray, histograms: bool) -> Arrays:
    """Measure one float64 array; its squares may leave float64's range, so that it is scaled first."""
    x = np.ascontiguousarray(x).reshape(-1)
    finite = x[np.isfinite(x)]
    largest = float(np.abs(finite).max(initial=0.0))
    scale = max(largest, np.finfo(np.float64).tiny)
    with np.errstate(invalid="ignore"):
        rms = np.array([np.sqrt(np.square(finite / scale).sum() / np.float64(finite.size)) * scale])
    nonfinite = np.array([x.size - finite.size])
    if not histograms:
        return Arrays(rms, nonfinite)
    bits = x.view(np.uint64)
    exponents = ((bits >> np.uint64(52)) & np.uint64(0x7FF)).astype(np.int64)
    bins = np.clip(exponents - 1023 + 127, 0, NONFINITE_BIN - 1)  # below float32's smallest normal: with the zeros
    bins = np.where(exponents == 0x7FF, NONFINITE_BIN, bins) + NUM_BINS * (bits >> np.uint64(63)).astype(np.int64)
    counts = np.bincount(bins, minlength=2 * NUM_BINS)
    num_subnormal = counts[0] + counts[NUM_BINS] - np.count_nonzero(x == 0)
    return Arrays(rms, nonfinite, counts[None], np.array([[num_subnormal, np.isnan(x).sum()]]))


def _empty(num: int, histograms: bool) -> Arrays:
    if not histograms:
        return Arrays(np.empty(num), np.empty(num, np.int64))
    counts, special = np.empty((num, 2 * NUM_BINS), np.int64), np.empty((num, 2), np.int64)
    return Arrays(np.empty(num), np.empty(num, np.int64), counts, special)


def _assign(arrays: Arrays, rows: list[int], part: Arrays) -> None:
    for name in ("rms", "num_nonfinite", "counts", "special"):
        whole = getattr(arrays, name)
        if whole is not None:
            whole[rows] = getattr(part, name)


def count_exponents(x: Tensor) -> Histogram:
    """Return the histogram of a tensor of any floating dtype, shape and device; its counts sum to `x.numel()`."""
    histogram = measure_tensors([""], [x], histograms=True)[0].histogram
    assert histogram is not None
    return histogram


def root_mean_square(x: Tensor) -> float | None:
    """Return sqrt(mean(x**2)) over the finite elements, free of overflow; None if no element is finite."""
    return measure_tensors([""], [x], histograms=False)[0].rms


def count_nonfinite(x: Tensor) -> int:
    """Return the number of Inf and NaN in `x`."""
    return measure_tensors([""], [x], histograms=False)[0].num_nonfinite
