"""Progress as lines, where output is not a terminal."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl

from stabletrain.training.display.numbers import duration, part_of, short, speed
from stabletrain.training.display.readings import Readings
from stabletrain.training.display.run_reader import RunReader
from stabletrain.training.display.status_lines import state_part
from stabletrain.training.lightning_packages import Callback
from stabletrain.vocabulary import metric_names as names

FIRST_LINE_S = 2.0  # without a validation until then
LINE_EVERY_S = 30.0  # between two lines at most


class LineProgress(Callback):
    """Prints one line per validation and at least one every half minute, for logs and pipes.

    Args:
        clock: Returns seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._reader = RunReader(clock)
        self._first_s = 0.0
        self._next_s = float("inf")  # also in all processes but the first

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        if trainer.is_global_zero:
            self._reader.start(trainer, pl_module)
            self._first_s = self._clock() + FIRST_LINE_S
            self._next_s = 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the number of the epoch."""
        self._reader.start_epoch(trainer)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Print the step, the speed, the loss and the range of the gradients if no line was printed for long."""
        if self._clock() >= self._next_s:
            readings = self._reader.read(trainer, pl_module, outputs, batch_idx)
            if self._next_s == 0.0 and self._clock() < self._first_s:  # the first step: from here on, speed is measured
                self._next_s = self._first_s
            else:
                self._print(readings.epoch, readings.step, progress_text(readings))

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clock of the steps."""
        self._reader.pace.leave()

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Print how far a validation is that takes long."""
        if self._clock() >= self._next_s > 0 and not trainer.sanity_checking:
            progress = part_of(batch_idx, trainer.num_val_batches, dataloader_idx)
            self._print(trainer.current_epoch + 1, trainer.global_step, f"validating {progress}")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the epoch, the step and the validation metrics."""
        self._reader.pace.come_back()
        if trainer.is_global_zero and not trainer.sanity_checking:
            logged = {k: float(v) for k, v in trainer.callback_metrics.items()}
            shown = {k: v for k, v in logged.items() if not names.is_monitoring(k)}
            numbers = "  ".join(f"{name} {value:.4g}" for name, value in sorted(shown.items()))
            self._print(trainer.current_epoch + 1, trainer.global_step, numbers)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print no more lines of training."""
        self._next_s = float("inf")

    def _print(self, epoch: int, step: int, text: str) -> None:
        with contextlib.suppress(OSError):  # the reader of the pipe is gone; the run continues
            print(f"epoch {epoch:>3}  step {step:>6}  {text}", flush=True)
        if self._next_s < float("inf"):
            self._next_s = self._clock() + LINE_EVERY_S


def progress_text(readings: Readings) -> str:
    """Return how far a run is and how it does, in ASCII characters."""
    parts = [] if readings.total_steps is None else [f"of {readings.total_steps}"]
    if readings.loss is not None:
        parts.append(f"{names.TRAIN_LOSS} {readings.loss:.4g}")
    if readings.gradients is not None:
        smallest, largest = (short(value, 1) for value in readings.gradients)
        parts.append(f"grad {smallest} to {largest}")
    if readings.steps_per_second is not None:
        parts.append(speed(readings.steps_per_second))
    if readings.left_s is not None:
        parts.append(f"{duration(readings.left_s)} left")
    if readings.findings is not None:
        parts.append(state_part(readings.findings).forms[0])
    return "  ".join(parts)
