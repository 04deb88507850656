"""The edge of chaos: weight and bias variances at which a deep network preserves signals and gradients."""

from __future__ import annotations

import math
import sys
from typing import cast

from stabletrain.errors import RequestError
from stabletrain.network.activation import Activation
from stabletrain.network.meanfield.gaussian_signal import (
    LARGEST_VARIANCE,
    SMALL,
    MeanField,
    compute_moments,
)

# Intervals between 1e-6 and the largest variance. Measured: no activation in conf/ has two roots in one interval.
_NUM_SCANNED = 100


def find_critical(activation: Activation, bias_std: float | None = None) -> MeanField:
    """Find σ_w and σ_b with χ₁ = 1 at a fixed point q* = V(q*).

    Such points form a curve with one point for each q: σ_w² = 1 / E[φ'²], σ_b² = q − E[φ²] / E[φ'²]. Returned is

    - with `bias_std`, the first point with that σ_b at which q* is stable: V'(q*) ≤ 1;
    - without it, the point at which V'(q*) = 1 as well, so that neither lengths nor angles change exponentially with
      depth: q* = 0 for tanh, erf and similar functions (also ELU and SELU), any q for ReLU and other piecewise linear
      functions with a kink at 0, and a single q* for GELU, SiLU and Mish. That q* is stable from one side only; a
      signal of variance q* keeps it.

    Args:
        activation: Elementwise function on tensors, a module or not.
        bias_std: σ_b, from 0; None for the second kind of point.

    Raises:
        RequestError: There is no such point, as for sigmoid and softplus.

    Example:
        >>> import torch
        >>> find_critical(torch.relu).weight_variance
        2.0
        >>> round(find_critical(torch.tanh, bias_std=0.05**0.5).weight_variance, 2)
        1.76

    References:
        Poole et al. 2016, Exponential Expressivity in Deep Neural Networks through Transient Chaos, sections 2 and 3;
        Schoenholz et al. 2017, Deep Information Propagation, section 3; Roberts et al. 2022, The Principles of
        Deep Learning Theory, sections 5.2 and 5.3 (both susceptibilities 1).
    """
    origin = compute_moments(activation, SMALL)
    if not bias_std and origin.slope > 0:
        if _is_scale_free(activation, origin.slope):
            return _at_edge(1 / origin.slope, 0.0, None)
        if _vanishes_at_edge(activation, origin.slope):
            return _at_edge(1 / origin.slope, 0.0, 0.0)
    variance = _find_variance(activation, bias_std)
    if variance is None:
        raise _no_edge(activation, bias_std)
    moments = compute_moments(activation, variance)
    return _at_edge(1 / moments.slope, max(variance - moments.square / moments.slope, 0.0), variance)


def _at_edge(weight_variance: float, bias_variance: float, variance: float | None) -> MeanField:
    return MeanField(_round(weight_variance), bias_variance, variance, 1.0, math.inf)


def _round(value: float) -> float:
    """Round to the accuracy of the quadrature, whose slopes at a variance of 1e-16 are off by 1e-8."""
    return float(f"{value:.7g}")


def _is_scale_free(activation: Activation, slope: float) -> bool:
    """Return whether φ(a x) = a φ(x) for a > 0 (two half-lines from 0): E[φ²] ∝ q."""
    return all(
        math.isclose(compute_moments(activation, q).square, slope * q, rel_tol=1e-7) for q in (1e-4, 1e-2, 1.0, 100.0)
    )


def _vanishes_at_edge(activation: Activation, slope: float) -> bool:
    """Return whether V(q) = E[φ²] / φ'(0)² has a fixed point q* = 0 that is stable from above: V(q) ≤ q near 0."""
    return all(compute_moments(activation, q).square <= slope * q * (1 + 1e-9) for q in (SMALL, 1e-6, 1e-4, 1e-2))


def _find_variance(activation: Activation, bias_std: float | None) -> float | None:
    """Return the first q with V'(q) = 1; with `bias_std`, the first that has this σ_b and V'(q) ≤ 1."""
    from scipy.optimize import brentq  # imported here: a second to load, and not needed for tanh or ReLU

    def excess(q: float) -> float:
        moments = compute_moments(activation, q)
        if bias_std is None:
            return moments.growth - moments.slope
        return q * moments.slope - moments.square - bias_std**2 * moments.slope

    def fits(q: float) -> bool:
        moments = compute_moments(activation, q)
        return q * moments.slope >= moments.square * (1 - 1e-9) and moments.growth <= moments.slope * (1 + 1e-9)

    step = (LARGEST_VARIANCE / 1e-6) ** (1 / _NUM_SCANNED)
    points = [1e-6 * step**index for index in range(_NUM_SCANNED + 1)]
    values = [excess(q) for q in points]
    for low, high, at_low, at_high in zip(points, points[1:], values, values[1:], strict=False):
        if at_low * at_high < 0:
            root = cast(float, brentq(excess, low, high, xtol=sys.float_info.min))  # to 4 ε, relative
            if fits(root):
                return root
    return None


def _no_edge(activation: Activation, bias_std: float | None) -> RequestError:
    name = getattr(activation, "__name__", type(activation).__name__)
    if bias_std is None:
        saturates = compute_moments(activation, LARGEST_VARIANCE).growth < 0.1  # of slope ½: 0.25
        closest = "tanh" if saturates else "relu"
        return RequestError(
            f"{name} has no edge of chaos: no weights and biases keep both its signal and its gradient.",
            key="activation",
            found=name,
            allowed="tanh, relu, leaky_relu, prelu, elu, selu, gelu, silu, mish or identity",
            closest=closest,
            command=f"activation={closest}",
        )
    own = find_critical(activation)  # raises where the activation has no such point at all
    return RequestError(
        f"{name} has no stable point at the edge of chaos with biases of that size.",
        key="bias_std",
        found=bias_std,
        allowed=f"null for the activation's own, {own.bias_variance**0.5:.4g}",
        closest="null",
        command="init.bias_std=null",
    )
