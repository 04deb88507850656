"""Initializations as functions that fill one weight (fan-out, fan-in, …) in place, under torch's global seed."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from stabletrain.errors import require_choice

DISTRIBUTIONS = ("uniform", "normal")
KERNELS = ("flat", "delta")


def compute_fans(weight: Tensor) -> tuple[int, int]:
    """Return fan-in and fan-out of a weight (out, in, …), counted as in `torch.nn.init`: times the kernel's size.

    For a grouped convolution they are those of one group (`weights.split_weight`); torch's fan-out counts all groups.
    """
    positions = weight[0, 0].numel()
    return weight.size(1) * positions, weight.size(0) * positions


@torch.no_grad()
def normal_(weight: Tensor, std: float) -> Tensor:
    """Fill with W ~ N(0, std²).

    Args:
        weight: Any shape.
        std: Standard deviation, from 0.
    """
    return weight.normal_(0.0, std)


@torch.no_grad()
def fill_with_std_(weight: Tensor, std: float, distribution: str) -> Tensor:
    """Fill with mean 0 and standard deviation `std`: normal, or uniform in ±√3 std.

    Args:
        weight: Any shape.
        std: Standard deviation, from 0.
        distribution: `uniform` or `normal`.

    Raises:
        RequestError: Another distribution is given.
    """
    if require_choice("distribution", distribution, DISTRIBUTIONS) == "normal":
        return weight.normal_(0.0, std)
    bound = math.sqrt(3.0) * std
    return weight.uniform_(-bound, bound)


def xavier_(weight: Tensor, gain: float = 1.0, distribution: str = "uniform") -> Tensor:
    """Fill with standard deviation gain · √(2 / (fan_in + fan_out)).

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
    """Fill with standard deviation gain / √fan.

    Args:
        weight: (out, in, …).
        gain: √2 in the paper, for ReLU; √(2 / (1 + a²)) for a leaky ReLU of slope a.
        distribution: `normal` (the paper's) or `uniform`.
        mode: `fan_in` preserves the variance of the signal, `fan_out` that of the gradient.

    References:
        He et al. 2015, Delving Deep into Rectifiers, eq. 10, 14 and 15.
    """
    fan_in, fan_out = compute_fans(weight)
    fan = fan_in if require_choice("mode", mode, ("fan_in", "fan_out")) == "fan_in" else fan_out
    return fill_with_std_(weight, gain / math.sqrt(fan), distribution)


def lecun_(weight: Tensor, distribution: str = "normal") -> Tensor:
    """Fill with standard deviation 1 / √fan_in.

    Args:
        weight: (out, in, …).
        distribution: `normal` or `uniform`; the source allows both.

    References:
        LeCun et al. 1998, Efficient BackProp, eq. 16; Klambauer et al. 2017 for SELU.
    """
    return fill_with_std_(weight, 1.0 / math.sqrt(compute_fans(weight)[0]), distribution)


@torch.no_grad()
def orthogonal_(weight: Tensor, gain: float = 1.0, kernel: str = "flat") -> Tensor:
    """Fill with gain times a random matrix with orthonormal rows or columns, whichever are fewer.

    A flat kernel is the matrix (out, in · positions). A delta kernel has the matrix (out, in) at its center and 0
    elsewhere, which makes the convolution as a whole an orthogonal map if out ≥ in, the only case in the paper. If
    in > out the rows are orthonormal: the map preserves the norm of the part of the input that it does not discard.
    Sampled in at least float32, since the QR decomposition has no half-precision version.

    Args:
        weight: (out, in, …).
        gain: The value of all singular values.
        kernel: `flat` or `delta`.

    References:
        Saxe et al. 2014, Exact Solutions to the Nonlinear Dynamics of Learning, section 3.1. Delta: Xiao et al.
        2018, Dynamical Isometry and a Mean Field Theory of CNNs, section 2 and algorithm 1.
    """
    if require_choice("kernel", kernel, KERNELS) == "delta" and weight.dim() > 2:
        return _fill_center_(weight, orthogonal_(weight.new_empty(weight.shape[:2]), gain))
    dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
    sampled = torch.empty(weight.shape, dtype=dtype, device=weight.device)
    return weight.copy_(nn.init.orthogonal_(sampled, gain))


def _fill_center_(kernel: Tensor, matrix: Tensor) -> Tensor:
    kernel.zero_()
    kernel[(slice(None), slice(None), *(size // 2 for size in kernel.shape[2:]))] = matrix
    return kernel


@torch.no_grad()
def identity_(weight: Tensor, gain: float = 1.0) -> Tensor:
    """Fill with gain times the identity: a rectangular one where out ≠ in, and at the center of a kernel.

    Args:
        weight: (out, in) or a kernel (out, in, …) of up to three axes.
        gain: Value on the diagonal.

    References:
        Le et al. 2015, A Simple Way to Initialize Recurrent Networks of Rectified Linear Units, section 3.
    """
    return _fill_center_(weight, gain * torch.eye(*weight.shape[:2], dtype=weight.dtype, device=weight.device))
