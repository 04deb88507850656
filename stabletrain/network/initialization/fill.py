"""Initializations as pure functions: each fills one weight (fan-out, fan-in, …) in place, from torch's seed."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from stabletrain.errors import require_choice

DISTRIBUTIONS = ("uniform", "normal")
KERNELS = ("flat", "delta")


def compute_fans(weight: Tensor) -> tuple[int, int]:
    """Return fan-in and fan-out of a weight (out, in, …): with the kernel's positions, as torch.nn.init counts.

    Of a grouped convolution they are those of one group (`blocks.split_weight`), where torch counts the outputs of all.
    """
    positions = weight[0, 0].numel()
    return weight.size(1) * positions, weight.size(0) * positions


@torch.no_grad()
def normal_(weight: Tensor, std: float) -> Tensor:
    """W ~ N(0, std²).

    Args:
        weight: Any shape.
        std: Standard deviation, from 0.
    """
    return weight.normal_(0.0, std)


@torch.no_grad()
def fill_with_std_(weight: Tensor, std: float, distribution: str) -> Tensor:
    """W of mean 0 and standard deviation `std`: normal, or uniform in ±√3 std.

    Args:
        weight: Any shape.
        std: Standard deviation, from 0.
        distribution: `uniform` or `normal`.

    Raises:
        RequestError: Another distribution is asked for.
    """
    if require_choice("distribution", distribution, DISTRIBUTIONS) == "normal":
        return weight.normal_(0.0, std)
    bound = math.sqrt(3.0) * std
    return weight.uniform_(-bound, bound)


def xavier_(weight: Tensor, gain: float = 1.0, distribution: str = "uniform") -> Tensor:
    """W of standard deviation gain · √(2 / (fan_in + fan_out)).

    Args:
        weight: (out, in, …).
        gain: 1 in the paper.
        distribution: `uniform` (the paper's) or `normal`.

    References:
        Glorot and Bengio 2010, Understanding the Difficulty of Training Deep Feedforward Networks, eq. 12, 16.
    """
    fan_in, fan_out = compute_fans(weight)
    return fill_with_std_(weight, gain * math.sqrt(2.0 / (fan_in + fan_out)), distribution)


def he_(weight: Tensor, gain: float = math.sqrt(2.0), distribution: str = "normal", mode: str = "fan_in") -> Tensor:
    """W of standard deviation gain / √fan.

    Args:
        weight: (out, in, …).
        gain: √2 in the paper, for ReLU; √(2 / (1 + a²)) for a leaky one of slope a.
        distribution: `normal` (the paper's) or `uniform`.
        mode: `fan_in` keeps the signal's variance forward, `fan_out` the gradient's backward.

    References:
        He et al. 2015, Delving Deep into Rectifiers, eq. 10, 14 and 15.
    """
    fan_in, fan_out = compute_fans(weight)
    fan = fan_in if require_choice("mode", mode, ("fan_in", "fan_out")) == "fan_in" else fan_out
    return fill_with_std_(weight, gain / math.sqrt(fan), distribution)


def lecun_(weight: Tensor, distribution: str = "normal") -> Tensor:
    """W of standard deviation 1 / √fan_in.

    Args:
        weight: (out, in, …).
        distribution: `normal` or `uniform`; the source allows both.

    References:
        LeCun et al. 1998, Efficient BackProp, eq. 16; Klambauer et al. 2017 for SELU.
    """
    return fill_with_std_(weight, 1.0 / math.sqrt(compute_fans(weight)[0]), distribution)


@torch.no_grad()
def orthogonal_(weight: Tensor, gain: float = 1.0, kernel: str = "flat") -> Tensor:
    """Gain times a random matrix with orthonormal rows or columns, whichever are fewer.

    Flat kernels are taken as (out, in · positions). Delta kernels hold the matrix (out, in) at their centre and 0
    elsewhere, so that the whole convolution is orthogonal as a map of images, if out ≥ in; the source has no
    other case. If in > out the rows are orthonormal: the map keeps the length of what it does not drop.
    Drawn in float32 at least: QR knows no half precision.

    Args:
        weight: (out, in, …).
        gain: All singular values.
        kernel: `flat` or `delta`.

    References:
        Saxe et al. 2014, Exact Solutions to the Nonlinear Dynamics of Learning, section 3.1. Delta: Xiao et al.
        2018, Dynamical Isometry and a Mean Field Theory of CNNs, section 2 and algorithm 1.
    """
    if require_choice("kernel", kernel, KERNELS) == "delta" and weight.dim() > 2:
        return _fill_centre_(weight, orthogonal_(weight.new_empty(weight.shape[:2]), gain))
    dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
    drawn = torch.empty(weight.shape, dtype=dtype, device=weight.device)
    return weight.copy_(nn.init.orthogonal_(drawn, gain))


def _fill_centre_(kernel: Tensor, matrix: Tensor) -> Tensor:
    kernel.zero_()
    kernel[(slice(None), slice(None), *(size // 2 for size in kernel.shape[2:]))] = matrix
    return kernel


@torch.no_grad()
def identity_(weight: Tensor, gain: float = 1.0) -> Tensor:
    """Gain times the identity; a rectangle keeps as many inputs as it can, a kernel passes its centre.

    Args:
        weight: (out, in) or a kernel (out, in, …) of up to three axes.
        gain: Entries on the diagonal.

    References:
        Le et al. 2015, A Simple Way to Initialize Recurrent Networks of Rectified Linear Units, section 3.
    """
    return _fill_centre_(weight, gain * torch.eye(*weight.shape[:2], dtype=weight.dtype, device=weight.device))
