"""Callbacks that only observe: the gradient watch, the system, and a progress line where no terminal listens."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import psutil
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch.optim import Optimizer

from stabletrain.errors import require_range
from stabletrain.record.writer import RecordWriter
from stabletrain.signal.cadence import is_due
from stabletrain.signal.watch import Watch
from stabletrain.training.loggers import RecordLogger
from stabletrain.training.stability import NonFiniteGradient


def find_writer(trainer: pl.Trainer) -> RecordWriter | None:
    """Return the record of the trainer's `RecordLogger`, or None if it has no such logger."""
    for logger in trainer.loggers:
        if isinstance(logger, RecordLogger):
            return logger.writer
    return None


class GradientWatch(Callback):
    """Records every layer's gradient, as the optimizer is about to see it, before clipping.

    | name | what |
    |---|---|
    | `gradient/rms/<layer>` | root mean square over the finite elements |
    | `gradient/nonfinite/<layer>` | number of Inf and NaN |
    | `gradient/histogram/<layer>` | counts of log10 of the absolute value |

    Under data parallelism every process holds the same averaged gradient: the first one measures, once per layer.
    In a trainer without a `RecordLogger` it writes an event file of its own into the trainer's log folder.

    Args:
        statistics_every: Steps between two measurements; 0 for never.
        histograms_every: Steps between two histograms; 0 for never.
    """

    def __init__(self, statistics_every: int = 10, histograms_every: int = 50) -> None:
        self.statistics_every = require_range("statistics_every", statistics_every, 0)
        self.histograms_every = require_range("histograms_every", histograms_every, 0)
        self.seconds = 0.0
        self._watch: Watch | None = None
        self._writer: RecordWriter | None = None
        self._own_writer = False

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin to watch on the first process."""
        if trainer.is_global_zero and (self.statistics_every or self.histograms_every):
            self._watch = Watch(getattr(pl_module, "network", pl_module))
            self._writer = find_writer(trainer)
            if self._writer is None:
                self._writer = RecordWriter(trainer.log_dir or trainer.default_root_dir)
                self._own_writer = True

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Measure, if this step is due."""
        step = trainer.global_step
        histograms = is_due(step, self.histograms_every)
        if histograms or is_due(step, self.statistics_every):
            self._measure(step, histograms)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Keep the gradient that stopped the run, whatever the cadence."""
        if isinstance(exception, NonFiniteGradient):
            self._measure(exception.step, histograms=True)

    def _measure(self, step: int, histograms: bool) -> None:
        if self._watch is None or self._writer is None:
            return
        start = time.perf_counter()
        self._writer.write_snapshot(self._watch.step(histograms=histograms, step=step))
        self.seconds += time.perf_counter() - start

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Let go of the model, and of the event file if it is our own."""
        if self._watch is not None:
            self._watch.detach()
        if self._own_writer and self._writer is not None:
            self._writer.close()
        self._watch, self._writer, self._own_writer = None, None, False


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
