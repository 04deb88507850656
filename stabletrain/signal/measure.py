"""Measuring tensors: the one-pass histogram and the root mean square. Observes, changes nothing."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from stabletrain.signal.histogram import NUM_BINS, Histogram

SAFE_RMS = 1e-16  # squares below float32's smallest normal, 1.2e-38, are lost: here no more than one part in a million
BLOCK = 2**20  # elements whose squares float32 sums up; over 2e8 ones on a CPU its sum stands still at 2**27


@torch.no_grad()
def count_exponents(x: Tensor) -> Histogram:
    """Count |x| by binary exponent in one pass over the bits.

    float32 is counted from its own bits; bfloat16 and float16 are widened to float32 first, which is exact.
    float64 is binned by its own exponent; finite values beyond float32's range go to the outermost finite bins.

    Args:
        x: Tensor of any floating dtype, shape and device.

    Returns:
        Histogram whose counts sum to `x.numel()`.
    """
    x = x.detach().reshape(-1)
    if x.dtype == torch.float64:
        return Histogram(_count_float64(x.cpu().numpy()))
    x = x.to(torch.float32)
    if x.device.type == "cpu":
        bits = x.contiguous().numpy().view(np.uint32)
        counts = np.bincount(bits >> 23, minlength=2 * NUM_BINS)  # sign and exponent are the nine upper bits
        return Histogram(counts[:NUM_BINS] + counts[NUM_BINS:])
    exponents = (x.view(torch.int32) >> 23) & 0xFF
    return Histogram(torch.bincount(exponents, minlength=NUM_BINS).cpu().numpy())


def _count_float64(x: np.ndarray) -> np.ndarray:
    exponents = ((np.ascontiguousarray(x).view(np.uint64) >> np.uint64(52)) & np.uint64(0x7FF)).astype(np.int64)
    bins = np.clip(exponents - 1023 + 127, 0, 254)  # below float32's smallest normal: with the zeros
    return np.bincount(np.where(exponents == 0x7FF, 255, bins), minlength=NUM_BINS)


@torch.no_grad()
def root_mean_square(x: Tensor) -> float | None:
    """Return sqrt(mean(x**2)) over the finite elements, free of overflow; None if no element is finite."""
    x = x.detach()
    if x.numel() == 0:
        return None
    rms = _norm(x) / x.numel() ** 0.5
    return rms if np.isfinite(rms) and rms > SAFE_RMS else _robust_rms(x)


def _norm(x: Tensor) -> float:
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    blocks = x.reshape(-1).split(BLOCK) if x.numel() > BLOCK else (x,)
    return math.hypot(*torch.stack([torch.linalg.vector_norm(block, dtype=dtype) for block in blocks]).tolist())


def _robust_rms(x: Tensor) -> float | None:
    finite = x[torch.isfinite(x)].to(torch.float64)
    if finite.numel() == 0:
        return None
    largest = finite.abs().max().clamp_min(torch.finfo(torch.float64).tiny)
    return float(torch.linalg.vector_norm(finite / largest) / finite.numel() ** 0.5 * largest)


def count_nonfinite(x: Tensor) -> int:
    """Return the number of Inf and NaN in `x`."""
    return int(x.numel() - torch.isfinite(x.detach()).sum())
