"""`train/loss` under the name that the record, the doctor and the report read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from stabletrain.vocabulary import metric_names as names


class LogLoss(Callback):
    """Logs `train/loss` for a LightningModule that logs it under another name or not at all."""

    def __init__(self) -> None:
        self._is_ours = False

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log what `training_step` returned, unless the module has logged it itself."""
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            return
        self._is_ours = self._is_ours or names.TRAIN_LOSS not in trainer.callback_metrics
        if self._is_ours:
            several = trainer.world_size > 1  # each process saw a part of the batch
            pl_module.log(names.TRAIN_LOSS, loss.detach(), on_step=True, on_epoch=False, sync_dist=several)
