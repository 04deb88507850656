"""Callbacks that only observe: the system, and a progress line where no terminal listens."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import psutil
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from stabletrain.training.loggers import find_writer


class SystemWatch(Callback):
    """Records what the run asks of the machine, at most once every `interval_s` seconds.

    | name | what |
    |---|---|
    | `system/cpu_utilization_percentage` | of one core, of this process |
    | `system/memory_usage_megabytes` | resident memory of this process |
    | `system/gpu_memory_usage_megabytes` | memory that torch holds on the GPU |
    | `system/steps_per_second` | optimizer steps |

    Args:
        interval_s: Seconds between two samples.
    """

    def __init__(self, interval_s: float = 5.0) -> None:
        self.interval_s = interval_s
        self._process = psutil.Process()
        self._last_time = 0.0
        self._last_step = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin to count."""
        self._process.cpu_percent()
        self._last_time, self._last_step = time.perf_counter(), trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Sample, if it is time."""
        if time.perf_counter() - self._last_time >= self.interval_s:
            self._sample(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Sample once more, so that a short run has numbers too."""
        self._sample(trainer)

    def _sample(self, trainer: pl.Trainer) -> None:
        writer = find_writer(trainer) if trainer.is_global_zero else None
        now = time.perf_counter()
        if writer is None or trainer.global_step == self._last_step:
            return
        scalars = {
            "system/cpu_utilization_percentage": self._process.cpu_percent(),
            "system/memory_usage_megabytes": self._process.memory_info().rss / 2**20,
            "system/steps_per_second": (trainer.global_step - self._last_step) / (now - self._last_time),
        }
        if torch.cuda.is_available():
            scalars["system/gpu_memory_usage_megabytes"] = torch.cuda.memory_reserved() / 2**20
        writer.write_scalars(trainer.global_step - 1, scalars)
        self._last_time, self._last_step = now, trainer.global_step


class LineProgress(Callback):
    """One line per validation, for logs and pipes where a progress bar would only make noise."""

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the epoch, the step and the validation metrics."""
        if trainer.is_global_zero and not trainer.sanity_checking:
            logged = {k: float(v) for k, v in trainer.callback_metrics.items()}
            shown = {k: v for k, v in logged.items() if not k.startswith(("gradient/", "clip/", "system/"))}
            numbers = "  ".join(f"{name} {value:.4g}" for name, value in sorted(shown.items()))
            with contextlib.suppress(OSError):  # nobody reads any more: the run goes on
                print(f"epoch {trainer.current_epoch + 1:>3}  step {trainer.global_step:>6}  {numbers}", flush=True)
