"""Measuring many tensors at once: counts by exponent, root mean square, number of non-finite elements."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from stabletrain.signal.histogram import NONFINITE_BIN, NUM_BINS, NUM_SIGNED_BINS
from stabletrain.signal.kernels.backend import choose_backend
from stabletrain.signal.kernels.reading import Reading
from stabletrain.signal.layer_statistics import Arrays, Measures
from stabletrain.torch_tools.local_shards import part_of

ON_DEVICE = (torch.float32, torch.bfloat16, torch.float16, torch.float64)  # measured on a GPU without conversion
LARGEST = 2**31 - 1  # elements that a backend reads as one tensor: its counts are 32-bit integers


def prepare() -> None:
    """Compile what measuring needs, or load what an earlier process compiled, instead of in the first step."""
    choose_backend().prepare()
    if torch.cuda.is_initialized():  # never initialize CUDA here: this process may be meant to fork, or not to use it
        from stabletrain.signal.kernels.device import has_kernel

        has_kernel(torch.device("cuda", torch.cuda.current_device()))


def measure_tensors(layers: Sequence[str], tensors: Sequence[Tensor], *, histograms: bool) -> Measures:
    """Measure tensors of any floating-point dtype, shape and device; sparse ones by their values, complex ones by |x|.

    float32 on the CPU is read in place; bfloat16 and float16 are converted to float32, which is exact. float64 is
    binned by its own exponent, and finite values outside float32's range go to the outermost finite bins. On a GPU,
    except for sparse tensors, nothing synchronizes: the host waits when the numbers are first read.

    Args:
        layers: Names, one for each tensor.
        tensors: What to measure.
        histograms: Whether to count exponents too.
    """
    found = measure_plain(layers, tensors, histograms=histograms)
    return measure_others(layers, tensors, histograms=histograms) if found is None else found


def measure_plain(layers: Sequence[str], tensors: Sequence[Tensor], *, histograms: bool) -> Measures | None:
    """Measure tensors that can all be read in place, as `measure_tensors` does; return None if one cannot.

    In place means: float32, contiguous, on the CPU, and not a subclass of `Tensor`. This runs on every step, right
    after a backward pass, with cold caches: one list comprehension took less time there than several `map`s.
    """
    float32, strided = torch.float32, torch.strided
    if not all(
        [
            type(x) is Tensor and x.dtype is float32 and x.layout is strided and x.is_cpu and x.is_contiguous()
            for x in tensors
        ]
    ):
        return None
    pieces = _cut(tuple([x.numel() for x in tensors]), LARGEST)
    return Measures(layers, pieces.sizes, _measure_floats(tensors, pieces, histograms), with_counts=histograms)


def measure_others(layers: Sequence[str], tensors: Sequence[Tensor], *, histograms: bool) -> Measures:
    """Measure any tensors, as `measure_tensors` does; slower than `measure_plain` where that would do."""
    with torch.no_grad():
        plain = [_plain(x) for x in tensors]
    sizes = np.fromiter((x.numel() for x in plain), np.int64, len(plain))
    if any(x.is_cuda for x in plain):
        from stabletrain.signal.kernels.device import measure_on_device

        arrays = measure_on_device(plain, histograms)
        return Measures(layers, sizes, arrays, with_counts=histograms, on_device=True)
    floats = [i for i, x in enumerate(plain) if x.dtype is torch.float32]
    arrays = _empty(len(plain), histograms)
    pieces = _cut(tuple(sizes[floats]), LARGEST)
    _assign(arrays, floats, _measure_floats([plain[i] for i in floats], pieces, histograms)())
    for i in sorted(set(range(len(plain))) - set(floats)):
        _assign(arrays, [i], measure_doubles(plain[i].numpy(), histograms))
    return Measures(layers, sizes, arrays, with_counts=histograms)


def _plain(x: Tensor) -> Tensor:
    """Return the elements, contiguous: float32 or float64 on the CPU, one of `ON_DEVICE` on a GPU."""
    if x.is_cuda and x.dtype in ON_DEVICE and x.layout is torch.strided and x.is_contiguous():
        return x
    x = part_of(x.detach())
    if x.is_complex():
        x = x.abs()
    x = x if x.is_cuda else x.cpu()
    kept = ON_DEVICE if x.is_cuda else (torch.float64,)
    return x.to(x.dtype if x.dtype in kept else torch.float32).contiguous()


class _Pieces(NamedTuple):
    """How tensors are read: each as one piece, except those of more than `LARGEST` elements, which are cut."""

    sizes: np.ndarray  # elements of each tensor
    lengths: np.ndarray  # elements of each piece
    firsts: np.ndarray | None  # index of each tensor's first piece; None if none is cut


@functools.lru_cache(maxsize=16)
def _cut(sizes: tuple[int, ...], largest: int) -> _Pieces:
    """Return how to read tensors of given sizes; cached, since a model's are the same on every step."""
    whole = np.array(sizes, np.int64)
    if whole.max(initial=0) <= largest:
        return _Pieces(whole, whole, None)
    nums = np.maximum(-(-whole // largest), 1)
    firsts = np.cumsum(nums) - nums
    place = np.arange(nums.sum()) - np.repeat(firsts, nums)
    lengths = np.minimum(np.repeat(whole, nums) - place * largest, largest)
    return _Pieces(whole, lengths, firsts)


def _measure_floats(tensors: Sequence[Tensor], pieces: _Pieces, histograms: bool) -> Callable[[], Arrays]:
    """Read the tensors now; the returned function derives their statistics, later and for several steps at once."""
    if pieces.firsts is not None:
        tensors = [piece for x in tensors for piece in x.detach().reshape(-1).split(LARGEST)]
    backend = choose_backend()
    read = backend.count_exponents if histograms else backend.sum_squares
    reading = read(tensors, pieces.lengths)
    if pieces.firsts is not None:
        parts: Any = (None if x is None else _add_pieces(x, pieces.firsts) for x in reading)
        reading = Reading(*parts)

    def finish() -> Arrays:
        bad = np.zeros(len(pieces.sizes), np.int64) if reading.num_nonfinite is None else reading.num_nonfinite
        with np.errstate(invalid="ignore"):  # no finite element: 0/0 = NaN
            rms = np.sqrt(reading.squares / (pieces.sizes - bad))
        return Arrays(rms, bad, reading.counts, reading.special)

    return finish


def _add_pieces(x: np.ndarray, firsts: np.ndarray) -> np.ndarray:
    add_up: Any = np.add.reduceat
    return add_up(x, firsts, axis=0, dtype=np.result_type(x, np.int64))


def measure_doubles(x: np.ndarray, histograms: bool) -> Arrays:
    """Measure one float64 array, divided by its largest magnitude first: squares may leave float64's range."""
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
    counts = np.bincount(bins, minlength=NUM_SIGNED_BINS)
    num_subnormal = counts[0] + counts[NUM_BINS] - np.count_nonzero(x == 0)
    return Arrays(rms, nonfinite, counts[None], np.array([[num_subnormal, np.isnan(x).sum()]]))


def _empty(num: int, histograms: bool) -> Arrays:
    if not histograms:
        return Arrays(np.empty(num), np.empty(num, np.int64))
    counts, special = np.empty((num, NUM_SIGNED_BINS), np.int64), np.empty((num, 2), np.int64)
    return Arrays(np.empty(num), np.empty(num, np.int64), counts, special)


def _assign(arrays: Arrays, rows: list[int], part: Arrays) -> None:
    for name in ("rms", "num_nonfinite", "counts", "special"):
        whole = getattr(arrays, name)
        if whole is not None:
            whole[rows] = getattr(part, name)
