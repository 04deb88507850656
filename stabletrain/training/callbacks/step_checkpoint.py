"""Save `last.ckpt` between the ends of epochs: every so many steps or seconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint

from stabletrain.training.lightning_internals import dump_checkpoint, runs_validation_next
from stabletrain.training.loggers import RecordLogger

MAX_COST = 0.01  # of the training time, without settings
SHORTEST_S = 10.0  # between two checkpoints, without settings
STEPS_BETWEEN_DECISIONS = 10  # with several processes: the first one's clock decides for all, which takes a broadcast


class StepCheckpoint(Checkpoint):
    """Saves a checkpoint from which a run resumes in the middle of an epoch.

    A checkpoint is taken once a step is complete, and written before the next one, after the record of the step. None
    is taken between two micro-batches of a step, or before a validation: the one at the end of the epoch follows.

    Args:
        path: Where to save it.
        every_steps: Optimizer steps between two checkpoints.
        every_seconds: Seconds between two checkpoints. If both are None, checkpoints are 10 seconds apart, or so far
            that they cost less than 1% of the time.
        clock: Returns seconds.

    Attributes:
        seconds: Time spent on checkpoints.
    """

    def __init__(
        self,
        path: Path,
        every_steps: int | None = None,
        every_seconds: float | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.path = path
        self.every_steps, self.every_seconds = every_steps, every_seconds
        self.seconds = 0.0
        self._clock = clock
        self._last_s = self._cost_s = 0.0
        self._last_step = 0
        self._pending: dict[str, Any] | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Count from here."""
        self._last_s, self._last_step, self._pending = self._clock(), trainer.global_step, None

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Copy the state, if a checkpoint is due."""
        step = trainer.global_step
        if step == self._last_step or runs_validation_next(trainer) or not self._is_due(trainer):
            self._last_step = step
            return
        self._last_step = step
        start = self._clock()
        self._pending = _on_host(dump_checkpoint(trainer))
        self._cost_s = self._clock() - start

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Write it, now that loggers have the whole step."""
        self._write(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forget one that is not written: the end of the epoch saves what is newer."""
        self._pending = None

    def _is_due(self, trainer: pl.Trainer) -> bool:
        step, elapsed = trainer.global_step, self._clock() - self._last_s
        if self.every_steps is not None and step % self.every_steps == 0:
            return True
        if self.every_steps is not None and self.every_seconds is None:
            return False
        if trainer.world_size > 1 and step % STEPS_BETWEEN_DECISIONS:
            return False
        interval = self.every_seconds
        if interval is None:
            interval = max(SHORTEST_S, self._cost_s / MAX_COST)
        is_due = elapsed >= interval
        return trainer.strategy.broadcast(is_due) if trainer.world_size > 1 else is_due

    def _write(self, trainer: pl.Trainer) -> None:
        checkpoint, self._pending = self._pending, None
        if checkpoint is None:
            return
        start = self._clock()
        for logger in trainer.loggers:
            if isinstance(logger, RecordLogger):
                logger.writer.flush()
        trainer.strategy.save_checkpoint(checkpoint, self.path)
        self._last_s = self._clock()
        self._cost_s += self._last_s - start
        self.seconds += self._cost_s


def _on_host(value: Any) -> Any:
    """Return a copy of nested values with tensors in host memory, which further steps do not change."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _on_host(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_on_host, value))
    return value
