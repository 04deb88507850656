"""Measuring tensors, many at once: counts by exponent and the root mean square. Observes, changes nothing."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stabletrain.signal.histogram import NONFINITE_BIN, NUM_BINS, Histogram
from stabletrain.signal.measures import Arrays, Measures

_is_cpu, _dtype, _layout = attrgetter("is_cpu"), attrgetter("dtype"), attrgetter("layout")
ON_DEVICE = (torch.float32, torch.bfloat16, torch.float16, torch.float64)  # measured on a GPU without being converted


def prepare() -> None:
    """Compile what measuring needs, or load what an earlier process compiled, rather than in the first step."""
    from stabletrain.signal import counting

    counting.prepare()
    if torch.cuda.is_initialized():  # else it may never be, or in other processes
        from stabletrain.signal.device import has_kernel

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
    if _lie_plainly(tensors):
        sizes = _as_array(tuple(map(Tensor.numel, tensors)))
        return Measures(layers, sizes, _measure_floats(tensors, sizes, histograms), with_counts=histograms)
    with torch.no_grad():
        plain = [_plain(x) for x in tensors]
    sizes = np.fromiter((x.numel() for x in plain), np.int64, len(plain))
    if any(x.is_cuda for x in plain):
        from stabletrain.signal.device import measure_on_device

        arrays = measure_on_device(plain, histograms)
        return Measures(layers, sizes, arrays, with_counts=histograms, on_device=True)
    floats = [i for i, x in enumerate(plain) if x.dtype is torch.float32]
    arrays = _empty(len(plain), histograms)
    _assign(arrays, floats, _measure_floats([plain[i] for i in floats], sizes[floats], histograms)())
    for i in sorted(set(range(len(plain))) - set(floats)):
        _assign(arrays, [i], measure_doubles(plain[i].numpy(), histograms))
    return Measures(layers, sizes, arrays, with_counts=histograms)


def _lie_plainly(tensors: Sequence[Tensor]) -> bool:
    """Whether all are float32, contiguous and on the CPU. No loop of Python's own: it is asked on every step."""
    return (
        all(map(_is_cpu, tensors))
        and {*map(_dtype, tensors)} <= {torch.float32}
        and {*map(_layout, tensors)} <= {torch.strided}
        and all(map(Tensor.is_contiguous, tensors))
    )


@functools.lru_cache(maxsize=16)
def _as_array(sizes: tuple[int, ...]) -> np.ndarray:
    """Return sizes as an array; a model's are the same on every step."""
    return np.array(sizes, np.int64)


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


def _measure_floats(tensors: Sequence[Tensor], sizes: np.ndarray, histograms: bool) -> Callable[[], Arrays]:
    """Read the tensors now; what follows from the sums is worked out when it is asked for."""
    from stabletrain.signal import counting

    addresses = np.fromiter(map(Tensor.data_ptr, tensors), np.int64, len(tensors))
    pieces, firsts = sizes, None
    if sizes.max(initial=0) > counting.LARGEST:
        addresses, pieces, firsts = _in_pieces(addresses, sizes)
    num = len(pieces)
    sums, nonfinite = np.empty(num), np.zeros(num, np.int64)
    counts = np.empty((num, 2 * NUM_BINS), np.int32) if histograms else None
    special = np.empty((num, 2), np.int64) if histograms else None
    if counts is not None and special is not None:
        all_finite = counting.count_exponents_(addresses, pieces, sums, counts, special)
    else:
        all_finite = counting.sum_squares_(addresses, pieces, sums)
    if not all_finite:
        counting.sum_finite_squares_(addresses, pieces, sums, nonfinite)
    if firsts is not None:
        add_up: Any = np.add.reduceat
        sums, nonfinite = add_up(sums, firsts), add_up(nonfinite, firsts)
        if counts is not None and special is not None:
            counts = add_up(counts, firsts, axis=0, dtype=np.int64)
            special = add_up(special, firsts, axis=0)

    def finish() -> Arrays:
        with np.errstate(invalid="ignore"):  # nothing finite: 0/0, which is NaN
            return Arrays(np.sqrt(sums / (sizes - nonfinite)), nonfinite, counts, special)

    return finish


def _in_pieces(addresses: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cut tensors so that each piece's counts fit in 32 bits; return addresses, sizes and each tensor's first piece."""
    from stabletrain.signal import counting

    largest = counting.LARGEST
    nums = np.maximum(-(-sizes // largest), 1)
    firsts = np.concatenate([[0], np.cumsum(nums)[:-1]])
    place = np.arange(nums.sum()) - np.repeat(firsts, nums)
    pieces = np.minimum(np.repeat(sizes, nums) - place * largest, largest)
    return np.repeat(addresses, nums) + 4 * largest * place, pieces, firsts


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
