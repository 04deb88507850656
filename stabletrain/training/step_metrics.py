"""The metrics of a step, for callbacks on every step and for loggers at their cadence."""

from __future__ import annotations

from collections.abc import Mapping

import pytorch_lightning as pl
import torch
from torch import Tensor

from stabletrain.training.lightning_internals import (
    is_logged_step,
    log_now,
    set_callback_metrics,
    set_progress_bar_metrics,
)
from stabletrain.vocabulary import metric_names as names

KEPT = (torch.float32, torch.float64)  # dtypes of a metric; lower precision becomes float32


class StepMetrics:
    """Passes on the metrics of a step, as `LightningModule.log` does, at a small part of its cost.

    Callbacks find the metrics in `trainer.callback_metrics` right away. All loggers receive them together, every
    `log_every_n_steps` steps, with the step number that Lightning gives to the values of `LightningModule.log`. On the
    other steps no value is read by the host.

    Under data parallelism the loss is the mean over the processes. It is only computed on the first two steps, on steps
    that are logged, on the last one of an epoch, and before a validation; in between, `trainer.callback_metrics` has
    the last mean.
    """

    def __init__(self) -> None:
        self._loss: Tensor | None = None
        self._norms: dict[str, Tensor] = {}
        self._is_mean = True

    def set_loss(self, trainer: pl.Trainer, loss: Tensor) -> None:
        """Set the loss of this process' part of a batch."""
        self._loss = loss.detach() if loss.dtype in KEPT else loss.detach().float()
        self._is_mean = trainer.world_size == 1
        if self._is_mean:
            set_callback_metrics(trainer, {names.TRAIN_LOSS: self._loss})
        elif trainer.global_step <= 1 or trainer.is_last_batch or is_logged_step(trainer):
            self.settle(trainer)

    def set_norms(self, trainer: pl.Trainer, norms: Mapping[str, Tensor]) -> None:
        """Set the metrics of the gradient, which are the same in every process."""
        self._norms = dict(norms)
        set_callback_metrics(trainer, self._norms)

    def settle(self, trainer: pl.Trainer) -> None:
        """Average the loss of the last step over the processes, unless it is; all processes must call it."""
        if self._is_mean or self._loss is None:
            return
        mean: Tensor = trainer.strategy.reduce(self._loss.clone(), reduce_op="mean")  # in place
        self._loss, self._is_mean = mean, True
        set_callback_metrics(trainer, {names.TRAIN_LOSS: mean})

    def end_batch(self, trainer: pl.Trainer) -> None:
        """Pass the metrics to the loggers if this step is logged."""
        norms, self._norms = self._norms, {}
        if not is_logged_step(trainer):
            return
        self.settle(trainer)
        values = norms
        if self._loss is not None:
            loss = self._loss.cpu()
            set_progress_bar_metrics(trainer, {names.TRAIN_LOSS: float(loss)})
            values = {names.TRAIN_LOSS: loss, **norms}
        log_now(trainer, values)
