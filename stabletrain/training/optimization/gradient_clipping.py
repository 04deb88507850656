"""Clipping and its count: for our module, and as a callback for any other LightningModule."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor, nn
from torch.optim import Optimizer

from stabletrain.gradient import Clip, NoClip, total_norm
from stabletrain.training.optimization.stability import NonFiniteGradient
from stabletrain.vocabulary import metric_names as names


class ClipMeter:
    """Clips the gradient of one step and keeps count of how often that changed anything.

    | name | what |
    |---|---|
    | `gradient/norm/total` | 2-norm of all gradients before clipping |
    | `clip/norm_after` | and after |
    | `clip/fraction` | share of all steps so far whose gradient became smaller |

    Args:
        clip: What is done to the gradient.
    """

    def __init__(self, clip: Clip) -> None:
        self.clip = clip
        self.num_clipped = 0
        self.num_steps = 0

    def step(self, parameters: Iterable[nn.Parameter]) -> tuple[Tensor, dict[str, Any]]:
        """Clip the gradients of `parameters`; return their norm before, and what to log if that is finite."""
        with_gradient = [p for p in parameters if p.grad is not None]
        before = self.clip(with_gradient)
        if not torch.isfinite(before):
            return before, {}
        after = (
            before
            if isinstance(self.clip, NoClip)
            else total_norm([p.grad for p in with_gradient if p.grad is not None])
        )
        self.num_steps += 1
        self.num_clipped += int(after < before)
        fraction = self.num_clipped / self.num_steps
        return before, {names.NORM_TOTAL: before, names.NORM_AFTER: after, names.CLIP_FRACTION: fraction}

    def state_dict(self) -> dict[str, Any]:
        """Return the clip's state and the counts."""
        return {"state": self.clip.state_dict(), "num_clipped": self.num_clipped, "num_steps": self.num_steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them back: `clip/fraction` goes on where it was."""
        self.clip.load_state_dict(state["state"])
        self.num_clipped, self.num_steps = state["num_clipped"], state["num_steps"]


def stop_if_nonfinite(trainer: pl.Trainer, norm: Tensor) -> None:
    """Raise NonFiniteGradient for a norm that is Inf or NaN, unless a loss scaler will skip the step by itself."""
    if not torch.isfinite(norm) and getattr(trainer.precision_plugin, "scaler", None) is None:
        raise NonFiniteGradient(trainer.global_step, float(norm.detach()))


def parameters_of(optimizer: Optimizer) -> list[nn.Parameter]:
    """Return all parameters of an optimizer."""
    return [p for group in optimizer.param_groups for p in group["params"]]


def unscale_before_step_(optimizer: Optimizer) -> None:
    """Have gradients unscaled before they are watched and clipped, also those of a fused optimizer.

    Under a loss scaler a fused optimizer unscales inside its step, and Lightning leaves that to it: what comes between
    would see gradients some 65,536 times too large.
    """
    if getattr(optimizer, "_step_supports_amp_scaling", False):
        optimizer._step_supports_amp_scaling = False  # pyright: ignore[reportAttributeAccessIssue]


class ClipGradients(Callback):
    """Clips the gradients of a LightningModule that is not ours, with automatic optimization; see `ClipMeter`.

    A non-finite gradient stops the run before the optimizer's step.

    Args:
        clip: What is done to the gradient.
    """

    def __init__(self, clip: Clip) -> None:
        self.meter = ClipMeter(clip)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Have gradients unscaled before they are clipped."""
        for optimizer in trainer.optimizers:
            unscale_before_step_(optimizer)

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Measure the norm, clip, measure again."""
        norm, values = self.meter.step(parameters_of(optimizer))
        stop_if_nonfinite(trainer, norm)
        pl_module.log_dict(values, on_step=True, on_epoch=False, rank_zero_only=True)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint must hold."""
        return self.meter.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up a state that `state_dict` returned."""
        self.meter.load_state_dict(state_dict)
