"""One LightningModule over any network: loss, metric, optimizer, and what happens to the gradient before a step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torchmetrics import Accuracy, MeanMetric, MeanSquaredError, Metric

from stabletrain.errors import RequestError
from stabletrain.gradient import Clip, NoClip, total_norm
from stabletrain.record import names
from stabletrain.training.schedule import Constant, Schedule
from stabletrain.training.stability import NonFiniteGradient

OptimizerFactory = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]

LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "classification": nn.functional.cross_entropy,
    "regression": nn.functional.mse_loss,
}


def make_metric(task: str, num_outputs: int) -> tuple[str, Metric]:
    """Return the name and the torchmetrics object of a task's metric: accuracy, or mean squared error."""
    if task == "classification":
        return "accuracy", Accuracy(task="multiclass", num_classes=num_outputs)
    return "mse", MeanSquaredError()


class TrainingModule(pl.LightningModule):
    """Trains any network that maps a batch of inputs to a batch of outputs.

    Logs `train/loss`, `val/loss`, `val/<metric>`, `gradient/norm/total` (before clipping), `clip/norm_after` and
    `clip/fraction`. A non-finite gradient raises `NonFiniteGradient` before the optimizer's step, so that the
    weights stay as they were; under mixed precision with a loss scaler, which skips such steps itself, it passes.

    Args:
        network: Maps x to outputs of shape (batch, num_outputs).
        task: `classification` (cross entropy, labels) or `regression` (mean squared error).
        num_outputs: Number of classes or targets.
        optimizer: Makes an optimizer for the parameters that it is given.
        schedule: Learning rate over time.
        clip: What is done to the gradient before each step.
    """

    def __init__(
        self,
        network: nn.Module,
        task: str,
        num_outputs: int,
        optimizer: OptimizerFactory,
        schedule: Schedule | None = None,
        clip: Clip | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.clip = clip or NoClip()
        self._loss = LOSSES[task]
        self._optimizer = optimizer
        self._schedule = schedule or Constant()
        self.metric_name, metric = make_metric(task, num_outputs)
        self.eval_metrics = nn.ModuleDict({stage: metric.clone() for stage in ("val", "test")})
        self.eval_losses = nn.ModuleDict({stage: MeanMetric() for stage in ("val", "test")})
        self.num_clipped = 0
        self.num_steps = 0

    def forward(self, x: Tensor) -> Tensor:
        """Return the network's outputs."""
        return self.network(x)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of one batch."""
        x, y = batch
        loss = self._loss(self(x), y)
        several = self.trainer.world_size > 1
        self.log(names.TRAIN_LOSS, loss, prog_bar=True, on_step=True, on_epoch=False, sync_dist=several)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Add one batch to the validation loss and metric."""
        self._evaluate("val", batch)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Add one batch to the test loss and metric."""
        self._evaluate("test", batch)

    def _evaluate(self, stage: str, batch: tuple[Tensor, Tensor]) -> None:
        x, y = batch
        outputs = self(x)
        loss: Any = self.eval_losses[stage]
        metric: Any = self.eval_metrics[stage]
        loss.update(self._loss(outputs, y), weight=len(y))
        metric.update(outputs, y)
        shown = stage == "val"
        self.log(f"{stage}/loss", loss, on_step=False, on_epoch=True, prog_bar=shown)
        self.log(f"{stage}/{self.metric_name}", metric, on_step=False, on_epoch=True, prog_bar=shown)

    def configure_gradient_clipping(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Measure the norm, clip, measure again; stop before the step if the gradient is not finite."""
        if gradient_clip_val is not None:
            raise RequestError(
                "Clipping is given twice: by Lightning's trainer and by the clip group.",
                key="trainer.gradient_clip_val",
                found=gradient_clip_val,
                allowed="null: choose clipping with the clip group",
                command=f"clip=norm clip.max_norm={gradient_clip_val}",
            )
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        before = self.clip(parameters)
        if not torch.isfinite(before):
            self._meet_nonfinite(float(before))
            return
        after = before if isinstance(self.clip, NoClip) else total_norm([p.grad for p in parameters])
        self.num_steps += 1
        self.num_clipped += int(after < before)
        norms = {
            names.NORM_TOTAL: before,
            names.NORM_AFTER: after,
            names.CLIP_FRACTION: self.num_clipped / self.num_steps,
        }
        self.log_dict(norms, on_step=True, on_epoch=False, rank_zero_only=True)

    def _meet_nonfinite(self, norm: float) -> None:
        if getattr(self.trainer.precision_plugin, "scaler", None) is None:
            raise NonFiniteGradient(self.global_step, norm)

    def configure_optimizers(self) -> Any:
        """Return the optimizer over all trainable parameters, with its schedule."""
        optimizer = self._optimizer([p for p in self.network.parameters() if p.requires_grad])
        total_steps = self.trainer.estimated_stepping_batches
        return self._schedule.attach(optimizer, total_steps=int(total_steps) if math.isfinite(total_steps) else -1)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the clip's state and counts: `clip/fraction` goes on where it was."""
        checkpoint["stabletrain_clip"] = {
            "state": self.clip.state_dict(),
            "num_clipped": self.num_clipped,
            "num_steps": self.num_steps,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the clip's state and counts back."""
        kept = checkpoint.get("stabletrain_clip")
        if kept:
            self.clip.load_state_dict(kept["state"])
            self.num_clipped, self.num_steps = kept["num_clipped"], kept["num_steps"]
