"""Clipping and its metrics: for `TrainingModule`, and as a callback for any other LightningModule."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from stabletrain.errors import RequestError
from stabletrain.gradient import Clip, NoClip, clip_and_measure_
from stabletrain.training.lightning_internals import has_hook, unscale_before_step_
from stabletrain.training.lightning_packages import Callback
from stabletrain.training.optimization.stability import NonFiniteGradient
from stabletrain.training.step_metrics import StepMetrics
from stabletrain.vocabulary import metric_names as names


class ClipMeter:
    """Clips the gradients of one step and keeps count of the steps in which that changed them.

    | name | what |
    |---|---|
    | `gradient/norm/total` | 2-norm of all gradients before clipping (for `clip=norm`, the norm that it limits) |
    | `clip/norm_after` | the same norm after clipping |
    | `clip/fraction` | fraction of all steps so far in which the norm became smaller |

    Args:
        clip: What is done to the gradients.
    """

    def __init__(self, clip: Clip) -> None:
        self.clip = clip
        self.num_clipped = 0
        self.num_steps = 0

    def step(self, parameters: Iterable[nn.Parameter]) -> tuple[float, dict[str, Tensor]]:
        """Clip the gradients of `parameters`, reading the device once.

        Returns:
            The norm before clipping, and the metrics to log, empty if that norm is not finite. They are scalars on
            the CPU: Lightning copies a float to the device, and reads it from there again.
        """
        _, before, after = clip_and_measure_(self.clip, parameters)
        if not math.isfinite(before):
            return before, {}
        self.num_steps += 1
        self.num_clipped += int(after < before)
        fraction = torch.tensor(self.num_clipped / self.num_steps)
        before_after = torch.tensor([before, after], dtype=torch.float64)
        return before, dict(zip(METRICS, (*before_after, fraction), strict=True))

    def state_dict(self) -> dict[str, Any]:
        """Return the clip's state and the counts."""
        return {"state": self.clip.state_dict(), "num_clipped": self.num_clipped, "num_steps": self.num_steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a state that `state_dict` returned, so that `clip/fraction` continues from it."""
        self.clip.load_state_dict(state["state"])
        self.num_clipped, self.num_steps = state["num_clipped"], state["num_steps"]


METRICS = (names.NORM_TOTAL, names.NORM_AFTER, names.CLIP_FRACTION)


def stop_if_nonfinite(trainer: pl.Trainer, norm: float) -> None:
    """Raise NonFiniteGradient for a norm that is Inf or NaN, unless a loss scaler will skip the step by itself."""
    if not math.isfinite(norm) and getattr(trainer.precision_plugin, "scaler", None) is None:
        raise NonFiniteGradient(trainer.global_step, norm)


def parameters_of(optimizer: Optimizer) -> list[nn.Parameter]:
    """Return all parameters of an optimizer."""
    return [p for group in optimizer.param_groups for p in group["params"]]


def refuse_trainer_clipping(gradient_clip_val: float | None) -> None:
    """Check that Lightning's trainer does not clip too.

    Raises:
        RequestError: It does.
    """
    if gradient_clip_val is not None:
        raise RequestError(
            "Clipping is given twice: by Lightning's trainer and by the clip group.",
            key="trainer.gradient_clip_val",
            found=gradient_clip_val,
            allowed="null: choose clipping with the clip group",
            command=f"clip=norm clip.max_norm={gradient_clip_val}",
        )


def clips_itself(module: pl.LightningModule) -> bool:
    """Return whether a LightningModule overrides `configure_gradient_clipping`."""
    return has_hook("configure_gradient_clipping", module)


def require_one_clip(module: pl.LightningModule, clip: Clip) -> None:
    """Check that gradients are not clipped both by `clip` and by the module's own `configure_gradient_clipping`.

    Raises:
        RequestError: They are.
    """
    if clips_itself(module) and not isinstance(clip, NoClip):
        raise RequestError(
            f"Clipping is given twice: {type(module).__name__} clips in its own configure_gradient_clipping.",
            key="clip",
            found=type(clip).__name__,
            allowed="none, which leaves clipping to the model; or a model without that method",
            closest="none",
            command="clip=none",
        )


class ClipGradients(Callback):
    """Clips the gradients of a LightningModule that is not a `TrainingModule`, under automatic optimization.

    Logs the metrics of `ClipMeter`. A non-finite gradient stops the run before the optimizer's step. A module that
    overrides `configure_gradient_clipping`, or a trainer with `gradient_clip_val`, clips after this callback. That
    takes `NoClip`, and only `gradient/norm/total` is logged: no hook runs between their clipping and the step.

    Args:
        clip: What is done to the gradients.
    """

    def __init__(self, clip: Clip) -> None:
        self.meter = ClipMeter(clip)
        self._step_metrics = StepMetrics()

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Prepare the clip and the optimizers.

        Raises:
            RequestError: The module or the trainer clips as well.
        """
        require_one_clip(pl_module, self.meter.clip)
        if not isinstance(self.meter.clip, NoClip):
            refuse_trainer_clipping(trainer.gradient_clip_val)
        self.meter.clip.attach(pl_module)
        for optimizer in trainer.optimizers:
            unscale_before_step_(optimizer)

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Clip, and measure the norms before and after."""
        norm, values = self.meter.step(parameters_of(optimizer))
        stop_if_nonfinite(trainer, norm)
        if clips_itself(pl_module) or trainer.gradient_clip_val is not None:
            values = {name: value for name, value in values.items() if name == names.NORM_TOTAL}
        self._step_metrics.set_norms(trainer, values)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Pass the norms to the loggers if this step is logged."""
        self._step_metrics.end_batch(trainer)

    def state_dict(self) -> dict[str, Any]:
        """Return the clip's state and the counts."""
        return self.meter.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state that `state_dict` returned."""
        self.meter.load_state_dict(state_dict)
