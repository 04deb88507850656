"""`train/loss` under the name that the record, the doctor and the report read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
from torch import Tensor

from stabletrain.training.lightning_packages import Callback
from stabletrain.training.step_metrics import StepMetrics
from stabletrain.vocabulary import metric_names as names


class LogLoss(Callback):
    """Logs `train/loss` for a LightningModule that logs it under another name or not at all."""

    def __init__(self) -> None:
        self._is_ours: bool | None = None
        self._step_metrics = StepMetrics()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log what `training_step` returned, unless the module logged it itself in its first step."""
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if self._is_ours is False or not isinstance(loss, Tensor) or loss.numel() != 1:
            return
        if self._is_ours is None:
            self._is_ours = names.TRAIN_LOSS not in trainer.callback_metrics
        if self._is_ours:
            self._step_metrics.set_loss(trainer, loss)
            self._step_metrics.end_batch(trainer)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Average the loss of the last step over the processes, for callbacks that read it now."""
        self._step_metrics.settle(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Average the loss of the last step over the processes, if the epoch ended early."""
        self._step_metrics.settle(trainer)
