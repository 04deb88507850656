"""The variance of a Gaussian signal through the layers of a deep network, by Gauss–Hermite quadrature.

A layer with weights of variance σ_w² / fan_in and biases of variance σ_b² maps pre-activations of variance q to
pre-activations of variance V(q), and multiplies the squared norm of the gradient by χ₁:

    V(q) = σ_w² E[φ(√q z)²] + σ_b²
    χ₁ = σ_w² E[φ'(√q z)²],  z ~ N(0, 1)
"""

from __future__ import annotations

import copy
import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stabletrain.errors import RequestError
from stabletrain.network.activation import Activation

# Measured: with 200 nodes, the second moments of all activations in conf/ are within 1e-4 of those with 1,000 nodes.
_NUM_NODES = 200
# The nodes are π / √(2 · 200) = 0.16 apart, which resolves a function as steep as tanh(√q z) up to about this q. The
# largest known fixed point, that of SiLU (Roberts et al. 2022, section 5.3.4), is at 14.3.
LARGEST_VARIANCE = 20.0
SMALL = 1e-16  # a variance so small that φ is given by its two slopes at 0


@functools.cache
def _compute_nodes(num_nodes: int) -> tuple[Tensor, Tensor]:
    """Return the nodes z and weights w of ∫ f(z) N(z; 0, 1) dz ≈ Σ w f(z).

    The nodes are the eigenvalues of the Jacobi matrix of the Hermite polynomials, the weights the squared first
    entries of its eigenvectors. `numpy.polynomial.hermite_e.hermegauss` agrees to 1e-15, but other last bits would
    change every weight that is initialized with a gain.

    References:
        Golub and Welsch 1969, Calculation of Gauss Quadrature Rules.
    """
    off_diagonal = torch.arange(1, num_nodes, dtype=torch.float64).sqrt()
    jacobi = torch.diag(off_diagonal, 1) + torch.diag(off_diagonal, -1)
    nodes, vectors = torch.linalg.eigh(jacobi)
    return nodes, vectors[0] ** 2


@dataclass(frozen=True)
class Moments:
    """Moments of an activation φ at one variance q, with z ~ N(0, 1).

    Attributes:
        square: E[φ(√q z)²].
        slope: E[φ'(√q z)²].
        growth: d E[φ(√q z)²] / d q.
    """

    square: float
    slope: float
    growth: float


@dataclass(frozen=True)
class MeanField:
    """A deep network with one activation, at the fixed point of its variance.

    Attributes:
        weight_variance: σ_w²; the entries of a weight have variance σ_w² / fan_in.
        bias_variance: σ_b².
        variance: q* = V(q*), the variance of the pre-activations; 0 where the signal vanishes, None where every q is
            a fixed point, as for ReLU.
        chi: χ₁, the factor by which a layer multiplies the squared norm of the gradient.
        depth_scale: ξ = 1 / |ln χ₁|, the number of layers over which the squared norm of the gradient changes by a
            factor e; infinite at the edge of chaos.
    """

    weight_variance: float
    bias_variance: float
    variance: float | None
    chi: float
    depth_scale: float


def _call(activation: Activation, points: Tensor) -> Tensor:
    if isinstance(activation, nn.Module):  # a copy, since parameters (PReLU) need the dtype and device of the points
        activation = copy.deepcopy(activation).to("cpu", torch.float64).eval()
        activation.requires_grad_(False)
    values = activation(points)
    if not isinstance(values, Tensor) or values.shape != points.shape:
        raise RequestError(
            "activation does not map a tensor to a tensor of the same shape.",
            key="activation",
            found=activation,
            allowed="an elementwise function, such as torch.tanh or torch.nn.Tanh()",
        )
    return values


def second_moment(activation: Activation, variance: float = 1.0) -> float:
    """Return E[φ(z)²] for z ~ N(0, variance).

    Args:
        activation: Elementwise function on tensors, a module or not.
        variance: Variance of the pre-activations, from 0.

    Raises:
        RequestError: `activation` does not map a tensor to a tensor of the same shape.
    """
    nodes, weights = _compute_nodes(_NUM_NODES)
    with torch.no_grad():
        return float(weights @ _call(activation, nodes * variance**0.5) ** 2)


def second_moment_gain(activation: Activation) -> float:
    """Return 1 / √E[φ(z)²], z ~ N(0, 1): the gain that keeps the variance of the pre-activations at 1.

    With weights of variance gain² / fan_in the next pre-activations have variance gain² E[φ(z)²] = 1. For ReLU this is
    He's √2. It does not control the gradient: for tanh, the gradient grows with depth at this gain.

    Args:
        activation: Elementwise function on tensors, a module or not.

    Raises:
        RequestError: `activation` is not elementwise, or its second moment is zero or not finite.

    References:
        He et al. 2015, Delving Deep into Rectifiers, eq. 7–10, with E[φ²] in place of ½; Poole et al. 2016, eq. 3.
    """
    moment = second_moment(activation)
    if not 0 < moment < float("inf"):
        raise RequestError(
            "The second moment of activation is zero or not finite, so that there is no gain.",
            key="activation",
            found=activation,
        )
    return moment**-0.5


def compute_moments(activation: Activation, variance: float) -> Moments:
    """Return E[φ²], E[φ'²] and d E[φ²] / d q at one variance q, with φ' by autograd.

    Args:
        activation: Elementwise function on tensors, a module or not.
        variance: q, above 0.

    Raises:
        RequestError: `activation` is not elementwise, or has no gradient.
    """
    nodes, weights = _compute_nodes(_NUM_NODES)
    with torch.enable_grad():
        points = (nodes * variance**0.5).requires_grad_()
        values = _call(activation, points)
        if not values.requires_grad:
            raise RequestError("activation has no gradient.", key="activation", found=activation)
        (slopes,) = torch.autograd.grad(values.sum(), points)
    values = values.detach()
    growth = float(weights @ (values * slopes * nodes)) / variance**0.5
    return Moments(float(weights @ values**2), float(weights @ slopes**2), growth)


def find_fixed_point(activation: Activation, weight_variance: float, bias_variance: float) -> MeanField:
    """Iterate V from q = 1 to its fixed point q*, and return it with χ₁ and the depth scale.

    The iteration follows the signal through the layers, so that it ends at the fixed point that a network approaches.

    Args:
        activation: Elementwise function on tensors, a module or not.
        weight_variance: σ_w², above 0.
        bias_variance: σ_b², from 0.

    Returns:
        The network at q*. Where V has no fixed point, `variance` is inf and `chi` its value at the end of the
        iteration.

    Example:
        >>> ordered = find_fixed_point(torch.tanh, weight_variance=1.0, bias_variance=0.1)
        >>> round(ordered.variance, 3), round(ordered.chi, 3), round(ordered.depth_scale, 2)
        (0.295, 0.689, 2.68)

    References:
        Poole et al. 2016, Exponential Expressivity in Deep Neural Networks through Transient Chaos, sections 2 and 3;
        Schoenholz et al. 2017, Deep Information Propagation, section 4: ξ_∇⁻¹ = −ln χ₁.
    """
    variance = 1.0
    for _ in range(1000):  # measured: 1e-12 after 50 in order or chaos; at the edge q decreases as 1 / depth
        moments = compute_moments(activation, max(variance, SMALL))
        before, variance = variance, weight_variance * moments.square + bias_variance
        if abs(variance - before) <= 1e-12 * before or not 0 < variance < 1e12:
            break
    chi = weight_variance * compute_moments(activation, min(max(variance, SMALL), 1e12)).slope
    found = variance if variance < 1e12 else math.inf
    return MeanField(weight_variance, bias_variance, found, chi, compute_depth_scale(chi))


def compute_depth_scale(chi: float) -> float:
    """Return ξ = 1 / |ln χ₁|, in layers; infinite where χ₁ = 1 to the accuracy of the quadrature, 0 where χ₁ = 0.

    Example:
        >>> compute_depth_scale(1.0), round(compute_depth_scale(0.9), 2)
        (inf, 9.49)
    """
    return math.inf if abs(chi - 1) < 1e-9 else 0.0 if chi <= 0 else 1 / abs(math.log(chi))
