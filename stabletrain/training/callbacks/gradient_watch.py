"""The watch as a callback: measures the signals that are due in any LightningModule and appends them to the record."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch.optim import Optimizer

from stabletrain.errors import require_choice, require_range
from stabletrain.record.run_folder import EVENTS
from stabletrain.record.writer import RecordWriter
from stabletrain.signal.cadence import is_due, is_due_by_decade
from stabletrain.signal.kernels.shards import add_up
from stabletrain.signal.layer_statistics import Measures
from stabletrain.signal.snapshot import Snapshot, join
from stabletrain.signal.through_time import gradient_through_time
from stabletrain.signal.watch import OF_STEP, Watch
from stabletrain.training.lightning_packages import Callback
from stabletrain.training.loggers import find_writer
from stabletrain.training.step_numbers import current_step, trained_network
from stabletrain.vocabulary import metric_names as names
from stabletrain.vocabulary.signals import GRADIENT, SIGNALS

PROBE_SIZE = 8  # examples over which the gradient through time is measured


class GradientWatch(Callback):
    """Records the gradient of every layer, after unscaling and before clipping, and other signals on request.

    | name | value |
    |---|---|
    | `gradient/rms/<layer>` | root mean square over the finite elements |
    | `gradient/nonfinite/<layer>` | number of Inf and NaN |
    | `gradient/histogram/<layer>` | counts of log10 of the absolute value |
    | `gradient/p05/<layer>`, `p50`, `p95` | quantiles of the absolute value, with each histogram |
    | `<signal>/rms/<layer>`, `histogram/<signal>/<layer>` | the same of the other signals |
    | `update/ratio/<layer>` | ‖ΔW‖/‖W‖ |
    | `activation/dead/<layer>`, `activation/saturated/<layer>` | fraction of dead, saturated units; with `units` |
    | `weight/equal/<layer>` | fraction of units initialized as copies of the first, if above 1/2; with `units` |
    | `time/norm/<layer>` | ‖∂L/∂h_t‖ for each t, over the first examples of the batch (`TrainingModule` only) |

    Under data parallelism all processes hold the same averaged gradient, and only the first one measures it. Where
    parameters are sharded, every process measures its own shard and the counts are summed; so are those of `activation`
    and `delta`, for which every process sees its part of the batch.
    If the trainer has no `RecordLogger`, the callback writes its own event file to `tensorboard/` in the trainer's log
    folder. With several optimizers (manual optimization, as of a GAN) each one's parameters are measured at its own
    step, and the step number is that of the batch.

    Args:
        statistics_every: Steps between two measurements of the gradient; 0 for never.
        histograms_every: Steps between two histograms; 0 for never.
        points_per_decade: If above 0, measure this many times in every tenfold increase of the step number instead;
            this includes histograms unless `histograms_every` is 0.
        signals: Signals to measure: `gradient` and any of `delta`, `activation`, `weight`, `update`, `moment`, `clip`,
            `units`.
        signals_every: Steps between two measurements of the signals other than the gradient; 0 for never.
        signals_first: Number of first steps on which they are measured as well.
        time_every: Steps between two measurements of the gradient through time; 0 for never.

    Attributes:
        last_snapshot: The last statistics measured in this process; None before the first ones.

    Raises:
        RequestError: An unknown signal, or a negative number of steps.

    Example:
        trainer = pl.Trainer(callbacks=[st.callbacks.GradientWatch(signals=["gradient", "update"])])
    """

    def __init__(
        self,
        statistics_every: int = 10,
        histograms_every: int = 50,
        *,
        points_per_decade: int = 0,
        signals: Sequence[str] = (GRADIENT,),
        signals_every: int = 50,
        signals_first: int = 0,
        time_every: int = 0,
    ) -> None:
        self.statistics_every = require_range("statistics_every", statistics_every, 0)
        self.histograms_every = require_range("histograms_every", histograms_every, 0)
        self.points_per_decade = require_range("points_per_decade", points_per_decade, 0)
        self.signals = tuple(require_choice("signals", signal, SIGNALS) for signal in signals)
        self.signals_every = require_range("signals_every", signals_every, 0)
        self.signals_first = require_range("signals_first", signals_first, 0)
        self.time_every = require_range("time_every", time_every, 0)
        self._seconds = 0.0
        self._leave_training()

    def _leave_training(self) -> None:
        self.last_snapshot: Snapshot | None = None
        self._watch: Watch | None = None
        self._writer: RecordWriter | None = None
        self._owns_writer = False
        self._snapshot: Snapshot | None = None  # of this step
        self._others: list[Snapshot] = []  # … and of the optimizers after the first
        self._measured: dict[int, int] = {}  # last step on which each of several optimizers was considered
        self._batch: Any = None
        self._tapped_step = self._failed_step = -1
        self._follows_time = True
        self._num_processes = 1
        self._device = torch.device("cpu")

    def extend(
        self, signals: Sequence[str], *, statistics_every: int, signals_every: int, signals_first: int = 0
    ) -> None:
        """Measure further signals too, and at least this often; called before training, for another callback."""
        self.signals = tuple(signal for signal in SIGNALS if signal in {*self.signals, *signals})
        if not self.points_per_decade:
            self.statistics_every = min(self.statistics_every or statistics_every, statistics_every)
            self.signals_every = min(self.signals_every or signals_every, signals_every)
            self.signals_first = max(self.signals_first, signals_first)

    @property
    def measures_outputs(self) -> bool:
        """Whether hooks measure the outputs of the layers in the next step."""
        return self._watch is not None and self._watch.looks_at_outputs

    @property
    def layers(self) -> list[str]:
        """Names of all layers in forward order, with or without a gradient; empty outside of training."""
        return self._watch.layers if self._watch is not None else []

    @property
    def writer(self) -> RecordWriter | None:
        """The event file being written; None outside of training and in all processes but the first."""
        return self._writer

    @property
    def seconds(self) -> float:
        """Seconds spent on measuring and recording so far."""
        return self._seconds + (self._watch.tap_seconds if self._watch else 0.0)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Attach to the model and open the record."""
        if not (self.statistics_every or self.histograms_every or self.points_per_decade):
            return
        signals = [s for s in self.signals if trainer.optimizers or s not in OF_STEP]
        self._watch = Watch(trained_network(pl_module), optimizer=trainer.optimizers, signals=signals)
        self._watch.expect(taps=False)
        self._num_processes, self._device = trainer.world_size, pl_module.device
        if trainer.is_global_zero:
            self._writer = find_writer(trainer)
            if self._writer is None:
                self._writer = RecordWriter(events_folder(trainer))
                self._owns_writer = True
            self._writer.prepare()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Register the hooks if the next step is due; they stay for all its micro-batches."""
        step = current_step(trainer)
        if self._watch is not None and step != self._tapped_step:
            self._tapped_step = step
            taps, histograms = self._measures_others(step), self._wants_histograms(step)
            self._watch.expect(taps, histograms=histograms, num_parts=trainer.world_size)
        self._batch = batch if self._is_due(step, self.time_every) else None

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Measure if this step is due; with several optimizers, the parameters of the one that is about to step."""
        step = current_step(trainer)
        several = len(trainer.optimizers) > 1
        steps = self._steps_since(step, optimizer) if several else (step,)
        histograms = any(map(self._wants_histograms, steps))
        if histograms or any(self._is_due(i, self.statistics_every) for i in steps):
            scaler = getattr(trainer.precision_plugin, "scaler", None)
            others = any(map(self._measures_others, steps))
            scale = scaler.get_scale() if scaler and others else 1.0
            self._measure(step, histograms, others, scale, optimizer if several else None)
        if self._batch is not None and self._writer is not None and self._follows_time:
            self._measure_time(step, pl_module)

    def _steps_since(self, step: int, optimizer: Optimizer) -> range:
        """Return the steps since this optimizer's last one: an optimizer that steps rarely is measured late."""
        last = self._measured.get(id(optimizer), -1)
        self._measured[id(optimizer)] = step
        return range(min(last + 1, step), step + 1)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write the snapshot, including the signals of the optimizer's step."""
        self._batch = None
        self._write()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Record the gradients and weights that stopped the run, if they are not finite, whether or not it was due."""
        self.record_failure(current_step(trainer))
        self._write()
        if self._writer is not None:
            self._writer.flush()

    def record_failure(self, step: int) -> None:
        """Measure a step that raised, once, if its gradients or weights are not finite."""
        if self._watch is not None and self._failed_step != step and self._watch.has_nonfinite():
            self._failed_step = step
            self._measure(step, histograms=True, others=True)

    def _is_due(self, step: int, every: int) -> bool:
        if every and self.points_per_decade:
            return is_due_by_decade(step, self.points_per_decade)
        return is_due(step, every)

    def _measures_others(self, step: int) -> bool:
        return step < self.signals_first or self._is_due(step, self.signals_every)

    def _wants_histograms(self, step: int) -> bool:
        return self._is_due(step, self.histograms_every)

    def _measure(
        self,
        step: int,
        histograms: bool,
        others: bool = False,
        loss_scale: float = 1.0,
        optimizer: Optimizer | None = None,
    ) -> None:
        if self._watch is None:
            return
        start = time.perf_counter()
        outputs = self._collect_outputs(loss_scale) if others else None
        if self._writer is not None or self._watch.is_sharded:
            self.last_snapshot = self._watch.step(
                histograms=histograms,
                step=step,
                others=others,
                loss_scale=loss_scale,
                outputs=outputs,
                optimizer=optimizer,
            )
            if self._snapshot is None:
                self._snapshot = self.last_snapshot
            else:
                self._others.append(self.last_snapshot)
        self._seconds += time.perf_counter() - start

    def _collect_outputs(self, loss_scale: float) -> Mapping[str, Measures]:
        """Return `activation` and `delta` of the whole batch, summed over the processes."""
        assert self._watch is not None
        outputs = self._watch.collect_outputs(loss_scale)
        return add_up(outputs, self._device) if self._num_processes > 1 else outputs

    def _write(self) -> None:
        snapshot, self._snapshot = self._snapshot, None
        others, self._others = self._others, []
        if snapshot is not None and self._writer is not None:
            start = time.perf_counter()
            self.last_snapshot = join([snapshot, *others])
            self._writer.write_snapshot(self.last_snapshot)
            self._seconds += time.perf_counter() - start

    def _measure_time(self, step: int, pl_module: pl.LightningModule) -> None:
        probe = getattr(pl_module, "probe", None)
        if probe is None or self._writer is None or (self._watch is not None and self._watch.is_sharded):
            return  # a forward pass with sharded parameters needs all processes
        start = time.perf_counter()
        try:
            found = gradient_through_time(pl_module.network, *probe(self._batch, PROBE_SIZE))  # pyright: ignore[reportArgumentType]
        except Exception as error:  # a failed measurement must not stop training
            warnings.warn(f"The gradient through time is not measured: {error}", stacklevel=2)
            self._follows_time = False
            return
        self._writer.write_vectors(step, {names.of_layer(names.TIME_NORM, x.layer): x.norms for x in found})
        self._seconds += time.perf_counter() - start

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Detach from the model; flush the record, or close it if this callback opened it."""
        self._write()
        if self._watch is not None:
            self._seconds = self.seconds
            self._watch.detach()
        if self._writer is not None:
            self._writer.close() if self._owns_writer else self._writer.flush()
        self._watch, self._writer, self._owns_writer, self._batch = None, None, False, None


def events_folder(trainer: pl.Trainer) -> Path:
    """Return `tensorboard/` in the trainer's log folder, which makes it a run's folder for `report` and the like."""
    folder = Path(trainer.log_dir or trainer.default_root_dir)
    return folder if folder.name == EVENTS else folder / EVENTS
