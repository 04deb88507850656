"""What an activation does to a Gaussian signal, by Gauss–Hermite quadrature."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from stabletrain.errors import RequestError

# Measured: with 200 nodes the second moments of all activations in conf/ are within 1e-4 of those with 1,000.
_NUM_NODES = 200


@functools.cache
def _compute_nodes(num_nodes: int) -> tuple[Tensor, Tensor]:
    """Return nodes and weights of ∫ f(z) N(z; 0, 1) dz ≈ Σ w f(z), by Golub and Welsch 1969.

    The nodes are the eigenvalues of the Jacobi matrix of the Hermite polynomials, the weights the squares of
    its eigenvectors' first entries.
    """
    off_diagonal = torch.arange(1, num_nodes, dtype=torch.float64).sqrt()
    jacobi = torch.diag(off_diagonal, 1) + torch.diag(off_diagonal, -1)
    nodes, vectors = torch.linalg.eigh(jacobi)
    return nodes, vectors[0] ** 2


def second_moment(activation: Callable[[Tensor], Tensor], variance: float = 1.0) -> float:
    """E[φ(z)²] for z ~ N(0, variance).

    Args:
        activation: Elementwise function on tensors, a module or not.
        variance: Of the pre-activation, from 0.

    Raises:
        RequestError: `activation` does not map a tensor to a tensor of the same shape.
    """
    nodes, weights = _compute_nodes(_NUM_NODES)
    if isinstance(activation, nn.Module):  # a copy: parameters (PReLU) must be on the nodes' dtype and device
        activation = copy.deepcopy(activation).to("cpu", torch.float64).eval()
    with torch.no_grad():
        values = activation(nodes * variance**0.5)
    if not isinstance(values, Tensor) or values.shape != nodes.shape:
        raise RequestError(
            "activation does not map a tensor to a tensor of the same shape.",
            key="activation",
            found=activation,
            allowed="an elementwise function, such as torch.tanh or torch.nn.Tanh()",
        )
    return float(weights @ values**2)


def second_moment_gain(activation: Callable[[Tensor], Tensor]) -> float:
    """1 / √E[φ(z)²], z ~ N(0, 1): the gain that keeps the variance of the pre-activations at 1.

    With weights of variance gain² / fan_in the next pre-activation has variance gain² E[φ(z)²] = 1. For ReLU
    this is He's √2. It says nothing of the gradient, which for tanh still grows with depth at this gain.

    Args:
        activation: Elementwise function on tensors, a module or not.

    Raises:
        RequestError: `activation` is not elementwise, or gives zero or no finite numbers.

    References:
        He et al. 2015, Delving Deep into Rectifiers, eq. 7–10, with E[φ²] for ½; Poole et al. 2016, eq. 3.
    """
    moment = second_moment(activation)
    if not 0 < moment < float("inf"):
        raise RequestError(
            "activation has no finite second moment above 0, hence no gain.", key="activation", found=activation
        )
    return moment**-0.5
