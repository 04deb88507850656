"""Resource usage and throughput of a run: every process measures, the first one records."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Mapping
from typing import Any

import psutil
import pytorch_lightning as pl
import torch
from torch import Tensor

from stabletrain.training.lightning_packages import Callback
from stabletrain.training.loggers import find_writer
from stabletrain.vocabulary import metric_names as names

OF_PROCESS = (
    "cpu_utilization_percentage",
    "memory_usage_megabytes",
    "gpu_memory_usage_megabytes",
    "gpu_utilization_percentage",
    "network_receive_megabytes",
    "network_transmit_megabytes",
)


class SystemWatch(Callback):
    """Records resource usage and throughput, about every `interval_s` seconds.

    | name | value |
    |---|---|
    | `system/cpu_utilization_percentage` | of the process; 100 is one core |
    | `system/memory_usage_megabytes` | resident memory of the process |
    | `system/gpu_memory_usage_megabytes` | memory that torch holds on the GPU |
    | `system/gpu_utilization_percentage` | of the process' GPU, if NVIDIA's Python library is installed |
    | `system/network_receive_megabytes`, `…_transmit_…` | of the whole machine, since the last sample |
    | `system/steps_per_second`, `system/step_seconds` | of optimizer steps |
    | `system/samples_per_second` | training examples of all processes |

    With several processes the first six names end in `/rank<k>`, and the values are gathered in one collective call per
    sample. All processes sample after the same step: each sample carries the step of the next one, which the first
    process chooses by the duration of a step.

    Args:
        interval_s: Seconds between two samples.
    """

    def __init__(self, interval_s: float = 5.0) -> None:
        self.interval_s = interval_s
        self._process = psutil.Process()
        self._last_time = 0.0
        self._last_step = 0
        self._next_step = 0
        self._num_examples = 0
        self._network = (0, 0)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start counting."""
        self._process.cpu_percent()
        self._network = _network_bytes()
        self._begin(trainer)
        self._next_step = trainer.global_step + 1

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Sample if it is time."""
        self._num_examples += num_examples_of(batch)
        several = trainer.world_size > 1
        waited = time.perf_counter() - self._last_time
        if trainer.global_step >= self._next_step if several else waited >= self.interval_s:
            self._sample(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Sample once more, so that even a short run is sampled."""
        self._sample(trainer, pl_module)

    def _begin(self, trainer: pl.Trainer) -> None:
        self._last_time, self._last_step, self._num_examples = time.perf_counter(), trainer.global_step, 0

    def _sample(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        num_steps, seconds = trainer.global_step - self._last_step, time.perf_counter() - self._last_time
        if num_steps <= 0:
            return
        next_step = trainer.global_step + max(1, round(self.interval_s * num_steps / seconds))
        rows = self._gather(trainer, pl_module, [*self._measure(), self._num_examples, next_step])
        self._next_step = int(rows[0][-1])
        writer = find_writer(trainer) if trainer.is_global_zero else None
        if writer is not None:
            throughput = {
                names.STEPS_PER_SECOND: num_steps / seconds,
                names.STEP_SECONDS: seconds / num_steps,
                names.SAMPLES_PER_SECOND: sum(row[-2] for row in rows) / seconds,
            }
            writer.write_scalars(trainer.global_step - 1, name_by_rank(rows) | throughput)
        self._begin(trainer)

    def _gather(self, trainer: pl.Trainer, pl_module: pl.LightningModule, values: list[float]) -> list[list[float]]:
        """Return the values of every process."""
        if trainer.world_size == 1:
            return [values]
        own = torch.tensor(values, dtype=torch.float64, device=pl_module.device)
        return trainer.strategy.all_gather(own).tolist()

    def _measure(self) -> list[float]:
        """Return the metrics of `OF_PROCESS`, NaN where unavailable."""
        found = [self._process.cpu_percent(), self._process.memory_info().rss / 2**20, math.nan, math.nan]
        if torch.cuda.is_available():
            found[2] = torch.cuda.memory_reserved() / 2**20
            with contextlib.suppress(Exception):  # NVIDIA's library is missing, or access is denied
                found[3] = float(torch.cuda.utilization())
        before, self._network = self._network, _network_bytes()
        return [*found, *((now - then) / 2**20 for now, then in zip(self._network, before, strict=True))]


def name_of(metric: str) -> str:
    """Return `system/<metric>`."""
    return names.of_signal(names.SYSTEM, metric)


def name_by_rank(rows: list[list[float]]) -> dict[str, float]:
    """Return `system/<name>` of one process or `system/<name>/rank<k>` of several; NaN is left out."""
    return {
        name_of(name) + (f"/rank{rank}" if len(rows) > 1 else ""): value
        for rank, row in enumerate(rows)
        for name, value in zip(OF_PROCESS, row, strict=False)
        if math.isfinite(value)
    }


def num_examples_of(batch: Any) -> int:
    """Return the size of the first dimension of the first tensor in a batch; 0 if there is none."""
    if isinstance(batch, Tensor):
        return len(batch) if batch.dim() else 0
    if isinstance(batch, Mapping):
        batch = list(batch.values())
    if isinstance(batch, list | tuple):
        return next((n for part in batch if (n := num_examples_of(part))), 0)
    return 0


def _network_bytes() -> tuple[int, int]:
    counters = psutil.net_io_counters()
    return (counters.bytes_recv, counters.bytes_sent) if counters else (0, 0)
