"""A trainer that times the training of `whole_run.py`, for plain Lightning and for stabletrain."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from whole_run_timing import now, write_times


class Clock(pl.Callback):
    """Times all epochs: training, validation, logging and checkpoints, but not what is set up before the first step."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.start = now()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        write_times(self.start, now(), float(trainer.callback_metrics["val/loss"]))


class TimedTrainer(pl.Trainer):
    """A trainer with a `Clock`."""

    def fit(self, *args: Any, **kwargs: Any) -> None:
        self.callbacks.insert(0, Clock())
        super().fit(*args, **kwargs)
