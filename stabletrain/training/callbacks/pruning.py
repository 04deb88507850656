"""Stop a trial of a hyperparameter search that is worse than the others were at the same epoch."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl

from stabletrain.training.lightning_packages import Callback


class PruneTrial(Callback):
    """Reports the metric to the trial after every validation, and stops the run if the trial should be pruned.

    Args:
        trial: An Optuna trial, or any object with its `report(value, step)` and `should_prune()`.
        metric: Name of the metric, such as `val/loss`.
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
