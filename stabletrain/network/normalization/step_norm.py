"""Norms inside a recurrent cell, applied one time step at a time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stabletrain.network.normalization import MAX_STEPS, BatchNorm, build_norm

# Cooijmans et al. 2017, section 4: γ = 1 saturates tanh and makes the gradient vanish; 0.1 does not.
_RECURRENT_SCALE = 0.1


class StepBatchNorm(nn.Module):
    """Batch norm with separate statistics for each time step, and γ, β shared by all steps.

        y_t = γ (x_t − mean_t) / √(variance_t + eps) + β

    γ is initialized to 0.1. In evaluation mode, a step beyond the longest training sequence uses the statistics of the
    last step of that sequence.

    Args:
        width: Number of units; x is (batch, width).
        eps: Added to the variance.
        momentum: Weight of the newest batch in the running statistics.
        max_steps: Number of steps with their own statistics; later steps use those of the last.

    References:
        Cooijmans et al. 2017, Recurrent Batch Normalization, section 3 (per-step statistics) and 4 (γ = 0.1).
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, width: int, eps: float = 1e-5, momentum: float = 0.1, max_steps: int = MAX_STEPS) -> None:
        super().__init__()
        self.eps, self.momentum, self.max_steps = eps, momentum, max_steps
        self.weight = nn.Parameter(torch.full((width,), _RECURRENT_SCALE))
        self.bias = nn.Parameter(torch.zeros(width))
        self.register_buffer("running_mean", torch.zeros(max_steps, width))
        self.register_buffer("running_var", torch.ones(max_steps, width))
        self.register_buffer("num_batches_tracked", torch.zeros(max_steps, dtype=torch.long))

    def forward(self, x: Tensor, step: int) -> Tensor:
        """Normalize x (batch, width) with the statistics of time step `step`, from 0."""
        step = min(step, self.max_steps - 1)
        mean, variance = self.running_mean[step], self.running_var[step]  # (width,), views
        if self.training:
            self.num_batches_tracked[step] += 1
        else:
            reached = (self.num_batches_tracked > 0).sum().clamp(min=1) - 1  # a tensor, so as not to wait for the GPU
            at = reached.clamp(max=step)
            mean, variance = self.running_mean[at], self.running_var[at]
        return F.batch_norm(x, mean, variance, self.weight, self.bias, self.training, self.momentum, self.eps)


def build_step_norm(norm: Callable[[int], nn.Module], width: int) -> nn.Module:
    """Build the norm for one place in a recurrent cell; batch norm becomes `StepBatchNorm`."""
    built = build_norm(norm, width, "vector")
    if not isinstance(built, nn.BatchNorm1d):
        return built
    momentum = 0.1 if built.momentum is None else built.momentum
    return StepBatchNorm(width, built.eps, momentum, built.max_steps if isinstance(built, BatchNorm) else MAX_STEPS)


def normalize_step(norm: nn.Module, x: Tensor, step: int) -> Tensor:
    """Apply a norm made by `build_step_norm` to x (batch, width) at time step `step`."""
    return norm(x, step) if isinstance(norm, StepBatchNorm) else norm(x)
