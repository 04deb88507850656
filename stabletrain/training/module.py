"""A LightningModule around any network: loss, metric, optimizer, and gradient clipping."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torchmetrics import Accuracy, MeanMetric, MeanSquaredError, Metric

from stabletrain.gradient import Clip, NoClip
from stabletrain.training.lightning_internals import HOOK_NAME, unscale_before_step_
from stabletrain.training.optimization.gradient_clipping import (
    ClipMeter,
    parameters_of,
    refuse_trainer_clipping,
    stop_if_nonfinite,
)
from stabletrain.training.optimization.parameter_groups import group_parameters
from stabletrain.training.optimization.schedule import Constant, Schedule
from stabletrain.training.step_metrics import StepMetrics
from stabletrain.vocabulary import metric_names as names

OptimizerFactory = Callable[[Iterable[Any]], torch.optim.Optimizer]


def measure_loss(task: str, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Return the mean loss over all predictions: cross entropy, or mean squared error.

    Args:
        task: `classification` or `regression`.
        outputs: (batch, num_outputs), or (batch, time, num_outputs) for one prediction per time step.
        targets: Class indices of shape (batch,) or (batch, time); for regression, of the shape of `outputs`.
        label_smoothing: ε, from 0 to below 1: the target puts 1 − ε on the class and spreads ε over all classes.
            Classification only.

    References:
        Label smoothing: Szegedy et al. 2016, Rethinking the Inception Architecture, section 7.
    """
    if task == "regression":
        return nn.functional.mse_loss(outputs, targets)
    return nn.functional.cross_entropy(outputs.flatten(0, -2), targets.flatten(), label_smoothing=label_smoothing)


def make_metric(task: str, num_outputs: int) -> tuple[str, Metric]:
    """Return the name and the torchmetrics object of a task's metric: accuracy or mean squared error."""
    if task == "classification":
        return "accuracy", Accuracy(task="multiclass", num_classes=num_outputs)
    return "mse", MeanSquaredError()


class TrainingModule(pl.LightningModule):
    """Trains any network that maps a batch of inputs to a batch of outputs.

    Logs `train/loss`, `val/loss`, `val/<metric>`, `gradient/norm/total` (before clipping), `clip/norm_after` and
    `clip/fraction`. A non-finite gradient raises `NonFiniteGradient` before the optimizer's step, so that the
    weights remain unchanged. Under mixed precision with a loss scaler, which skips such steps itself, it is ignored.

    Args:
        network: Maps x to outputs of shape (batch, num_outputs).
        task: `classification` (cross entropy) or `regression` (mean squared error).
        num_outputs: Number of classes or targets.
        optimizer: Makes an optimizer for the parameters or parameter groups that it is given.
        schedule: Learning rate schedule; constant if None.
        clip: What is done to the gradients before each step; nothing if None.
        label_smoothing: ε of the training loss, from 0 to below 1; classification only.

    Attributes:
        last_loss: Loss of the last batch, a detached scalar on the device; None before the first one.
    """

    def __init__(
        self,
        network: nn.Module,
        task: str,
        num_outputs: int,
        optimizer: OptimizerFactory,
        schedule: Schedule | None = None,
        clip: Clip | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self.network = network
        self.meter = ClipMeter(clip or NoClip())
        self.meter.clip.attach(network)
        self.task = task
        self.last_loss: Tensor | None = None
        self._step_metrics = StepMetrics()
        self._label_smoothing = label_smoothing
        self._optimizer = optimizer
        self._schedule = schedule or Constant()
        self.metric_name, metric = make_metric(task, num_outputs)
        self.eval_metrics = nn.ModuleDict({stage: metric.clone() for stage in ("val", "test")})
        self.eval_losses = nn.ModuleDict({stage: MeanMetric() for stage in ("val", "test")})

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; without the search for parameters if it is the name of a hook, set 50 times a step."""
        if name == HOOK_NAME:
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    def forward(self, x: Tensor) -> Tensor:
        """Return the network's outputs."""
        return self.network(x)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of one batch."""
        x, y = batch
        loss = measure_loss(self.task, self(x), y, self._label_smoothing)
        self.note_loss(loss)
        return loss

    def note_loss(self, loss: Tensor) -> None:
        """Keep the loss for callbacks and loggers; the host does not read it here."""
        self.last_loss = loss.detach()
        self._step_metrics.set_loss(self.trainer, loss)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Pass the metrics of the step to the loggers if it is logged."""
        self._step_metrics.end_batch(self.trainer)

    def on_validation_start(self) -> None:
        """Average the training loss of the last step over the processes, for callbacks that read it now."""
        self._step_metrics.settle(self.trainer)

    def on_train_epoch_end(self) -> None:
        """Average the training loss of the last step over the processes, if the epoch ended early."""
        self._step_metrics.settle(self.trainer)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Add one batch to the validation loss and metric."""
        self._evaluate("val", batch)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Add one batch to the test loss and metric."""
        self._evaluate("test", batch)

    def probe(self, batch: tuple[Tensor, Tensor], num_examples: int) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """Return the first inputs of a batch, and a function from their outputs to the loss."""
        x, y = batch[0][:num_examples], batch[1][:num_examples]
        return x, lambda outputs: measure_loss(self.task, outputs, y, self._label_smoothing)

    def _evaluate(self, stage: str, batch: tuple[Tensor, Tensor]) -> None:
        x, y = batch
        outputs = self(x)
        loss: Any = self.eval_losses[stage]
        metric: Any = self.eval_metrics[stage]
        loss.update(measure_loss(self.task, outputs, y), weight=len(y))
        if self.task == "classification":
            outputs, y = outputs.flatten(0, -2), y.flatten()
        metric.update(outputs, y)
        if loss.update_count > 1:  # Lightning computes what is logged once, when the stage ends
            return
        shown = stage == names.VAL
        self.log(names.of_stage(stage, names.LOSS), loss, on_step=False, on_epoch=True, prog_bar=shown)
        name = names.of_stage(stage, self.metric_name)
        self.log(name, metric, on_step=False, on_epoch=True, prog_bar=shown)

    def configure_gradient_clipping(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip, and log the norms before and after; stop before the step if a gradient is not finite."""
        refuse_trainer_clipping(gradient_clip_val)
        norm, values = self.meter.step(parameters_of(optimizer))
        self.check_norm(norm)
        self._step_metrics.set_norms(self.trainer, values)

    def check_norm(self, norm: float) -> None:
        """Stop the run if the norm of the gradients is not finite."""
        stop_if_nonfinite(self.trainer, norm)

    def configure_optimizers(self) -> Any:
        """Return the optimizer of all trainable parameters, with its schedule; weight decay applies to weights only."""
        optimizer = self._optimizer([p for p in self.network.parameters() if p.requires_grad])
        if optimizer.defaults.get("weight_decay"):
            optimizer = self._optimizer(group_parameters(self.network))
        unscale_before_step_(optimizer)
        total_steps = self.trainer.estimated_stepping_batches
        return self._schedule.attach(optimizer, total_steps=int(total_steps) if math.isfinite(total_steps) else -1)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the clip's state and counts, so that `clip/fraction` continues when the run is resumed."""
        checkpoint["stabletrain_clip"] = self.meter.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the clip's state and counts."""
        saved = checkpoint.get("stabletrain_clip")
        if saved:
            self.meter.load_state_dict(saved)
