"""Norms over the last axis, named alike; batch norm also in the form that recurrent networks need."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stabletrain.errors import RequestError, require_range

# Cooijmans et al. 2017, section 5.1: 784 steps (sequential MNIST) is the longest sequence they normalize.
_MAX_STEPS = 784
# Cooijmans et al. 2017, section 4: γ = 1 saturates tanh and makes the gradient vanish; 0.1 works.
_RECURRENT_SCALE = 0.1


class NoNorm(nn.Identity):
    """y = x.

    Args:
        width: Size of the last axis.
    """

    def __init__(self, width: int) -> None:
        super().__init__()


class BatchNorm(nn.BatchNorm1d):
    """y = γ (x − mean) / √(variance + eps) + β, per unit over the batch.

    Args:
        width: Number of units; x is (batch, width).
        eps: Added to the variance, above 0 (torch's default).
        momentum: Weight of the newest batch in the running statistics, 0 to 1 (torch's default).
        max_steps: In recurrent networks, how many time steps have statistics of their own (from 1 up); later
            steps share the last. 784 as in sequential MNIST.

    References:
        Ioffe and Szegedy 2015, Batch Normalization, algorithm 1. Recurrent: see `StepBatchNorm`.
    """

    def __init__(self, width: int, eps: float = 1e-5, momentum: float = 0.1, max_steps: int = _MAX_STEPS) -> None:
        require_range("momentum", momentum, 0.0, 1.0)
        super().__init__(width, eps=require_range("eps", eps, 0.0, open_minimum=True), momentum=momentum)
        self.max_steps: int = require_range("max_steps", max_steps, 1)


class LayerNorm(nn.LayerNorm):
    """y = γ (x − mean) / √(variance + eps) + β, per example over the units.

    Args:
        width: Number of units, the size of the last axis.
        eps: Added to the variance, above 0 (torch's default).

    References:
        Ba et al. 2016, Layer Normalization, eq. 3 and 4.
    """

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__(width, eps=require_range("eps", eps, 0.0, open_minimum=True))


class RMSNorm(nn.RMSNorm):
    """y = γ x / √(mean(x²) + eps), per example over the units.

    Args:
        width: Number of units, the size of the last axis.
        eps: Added to the mean square, above 0. 1e-5 as in Llama 2; torch's own, the machine epsilon, lets the
            gradient grow 2,900-fold where x is 0, as a recurrent network's first hidden state is.

    References:
        Zhang and Sennrich 2019, Root Mean Square Layer Normalization, eq. 4.
    """

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__(width, eps=require_range("eps", eps, 0.0, open_minimum=True))


class GroupNorm(nn.GroupNorm):
    """Layer norm within each of `num_groups` equal groups of units.

    Args:
        width: Number of units; a multiple of `num_groups`.
        num_groups: Number of groups, from 1, with two units at least in each, or nothing but β is left. 4 makes
            groups of 16 at the default width of 64, the best size in table 3.
        eps: Added to the variance, above 0 (torch's default).

    Raises:
        RequestError: `num_groups` does not divide the width, or leaves groups of one unit.

    References:
        Wu and He 2018, Group Normalization, eq. 7.
    """

    def __init__(self, width: int, num_groups: int = 4, eps: float = 1e-5) -> None:
        require_range("num_groups", num_groups, 1)
        if width % num_groups or width < 2 * num_groups:
            raise RequestError(
                "num_groups does not divide the width into groups of two units or more.",
                key="num_groups",
                found=num_groups,
                allowed=f"a divisor of {width} below it",
            )
        super().__init__(num_groups, width, eps=require_range("eps", eps, 0.0, open_minimum=True))


class StepBatchNorm(nn.Module):
    """Batch norm with statistics of its own for each time step, and γ, β shared between the steps.

    y_t = γ (x_t − mean_t) / √(variance_t + eps) + β, γ = 0.1 at the start. When predicting, a step that no
    training sequence reached takes the statistics of the last one that was reached.

    Args:
        width: Number of units; x is (batch, width).
        eps: Added to the variance.
        momentum: Weight of the newest batch in the running statistics.
        max_steps: Steps with statistics of their own; later steps share the last.

    References:
        Cooijmans et al. 2017, Recurrent Batch Normalization, section 3 (per-step statistics) and 4 (γ = 0.1).
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, width: int, eps: float = 1e-5, momentum: float = 0.1, max_steps: int = _MAX_STEPS) -> None:
        super().__init__()
        self.eps, self.momentum, self.max_steps = eps, momentum, max_steps
        self.weight = nn.Parameter(torch.full((width,), _RECURRENT_SCALE))
        self.bias = nn.Parameter(torch.zeros(width))
        self.register_buffer("running_mean", torch.zeros(max_steps, width))
        self.register_buffer("running_var", torch.ones(max_steps, width))
        self.register_buffer("num_batches_tracked", torch.zeros(max_steps, dtype=torch.long))

    def forward(self, x: Tensor, step: int) -> Tensor:
        """Normalize x (batch, width) with the statistics of time step `step`, counted from 0."""
        step = min(step, self.max_steps - 1)
        mean, variance = self.running_mean[step], self.running_var[step]  # (width,), views
        if self.training:
            self.num_batches_tracked[step] += 1
        else:
            reached = (self.num_batches_tracked > 0).sum().clamp(min=1) - 1  # no .item(): no wait for a GPU
            at = reached.clamp(max=step)
            mean, variance = self.running_mean[at], self.running_var[at]
        return F.batch_norm(x, mean, variance, self.weight, self.bias, self.training, self.momentum, self.eps)


def build_step_norm(norm: Callable[[int], nn.Module], width: int) -> nn.Module:
    """Build the norm for one place in a recurrent cell; batch norm becomes `StepBatchNorm`."""
    built = norm(width)
    if not isinstance(built, nn.BatchNorm1d):
        return built
    momentum = 0.1 if built.momentum is None else built.momentum
    return StepBatchNorm(width, built.eps, momentum, getattr(built, "max_steps", _MAX_STEPS))


def normalize_step(norm: nn.Module, x: Tensor, step: int) -> Tensor:
    """Apply a norm made by `build_step_norm` to x (batch, width) at time step `step`."""
    return norm(x, step) if isinstance(norm, StepBatchNorm) else norm(x)
