"""Stopping a trial of a search that does worse than the others did at the same point."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback


class PruneTrial(Callback):
    """Tells a trial its metric after every validation, and ends the run if the trial says so.

    Args:
        trial: Optuna's trial, or anything with its `report(value, step)` and `should_prune()`.
        metric: Name of the metric.
    """

    def __init__(self, trial: Any, metric: str) -> None:
        self.trial = trial
        self.metric = metric
        self.pruned = False

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Report the metric of this epoch."""
        value = trainer.callback_metrics.get(self.metric)
        if trainer.sanity_checking or value is None:
            return
        self.trial.report(float(value), trainer.current_epoch)
        if self.trial.should_prune():
            self.pruned = trainer.should_stop = True
