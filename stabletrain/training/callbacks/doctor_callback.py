"""The doctor as a callback: reports findings as they open and close during the run, and the verdict at its end."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from stabletrain.diagnosis.doctor import diagnose
from stabletrain.diagnosis.findings_text import describe
from stabletrain.diagnosis.history import History, finite_scalars, total_norm
from stabletrain.diagnosis.recorded_run import about_of, replay
from stabletrain.errors import require_choice
from stabletrain.record.bounded_reader import load_bounded
from stabletrain.record.writer import RecordWriter
from stabletrain.signal.snapshot import Snapshot
from stabletrain.training.callbacks.gradient_watch import GradientWatch
from stabletrain.training.loggers import find_writer
from stabletrain.training.optimization.stability import SickRun
from stabletrain.training.run_plan import describe_training
from stabletrain.vocabulary import metric_names as names
from stabletrain.vocabulary.finding import Finding, verdict_of
from stabletrain.vocabulary.notice import Notice
from stabletrain.vocabulary.signals import ACTIVATION, DELTA, GRADIENT, UNITS, UPDATE

PAUSE_FACTOR = 300.0  # a diagnosis of t seconds is followed by a pause of 300 t: it costs at most a third of a percent
MIN_STEPS = 10  # before the first diagnosis
MAX_WAITING = 10  # steps whose loss and learning rate are written together
MAX_LINES = 12  # printed during a run; all findings are listed at its end
MIN_OPEN = 20  # steps that a critical finding must stay open before it stops the run …
MIN_OPEN_SHARE = 0.05  # … and at least this fraction of the training budget
MEASURED = (GRADIENT, DELTA, ACTIVATION, UPDATE, UNITS)


class DoctorCallback(Callback):
    """Diagnoses a training run while it runs: prints one line when a finding opens or closes. Observes only.

    It reads what `GradientWatch` and the trainer's `RecordLogger` record. If the trainer has no `GradientWatch`, one is
    added; if it has no `RecordLogger`, an event file is written to its log folder. The callback itself records

    | name | value |
    |---|---|
    | learning rate | of the first parameter group, whenever it changes |
    | `train/loss` | of the first step, which sets the scale |
    | `train/loss`, `val/…` | what the module returns and logs, if the trainer has no `RecordLogger` |

    Args:
        fail_on: `critical` or `warning`: a critical finding that stays open stops the run by raising `SickRun`, but
            only in single-process training. `warning` matters at the end of a run only, for the command's exit code.
        prior_loss: Loss of the best constant prediction (chance level): the labels' entropy, or the targets' variance.
            None if it is unknown or already in the record.
        say: Prints a line; `print` by default. If given, the caller prints the verdict itself.

    Raises:
        RequestError: `fail_on` is not a severity.

    Example:
        trainer = pl.Trainer(callbacks=[st.callbacks.Doctor()])
    """

    def __init__(
        self, fail_on: str | None = None, prior_loss: float | None = None, say: Callable[[str], None] | None = None
    ) -> None:
        self.fail_on = None if fail_on is None else require_choice("fail_on", fail_on, ["warning", "critical"])
        self.findings: list[Finding] = []
        self.seconds = 0.0
        self._prior_loss = prior_loss
        self._say = say or print
        self._concludes = say is None
        self._history = History()
        self._writer: RecordWriter | None = None
        self._owns_scalars = False
        self._open: dict[tuple[str, str | None], int] = {}
        self._num_lines = 0
        self._next_s = 0.0
        self._waiting: list[tuple[int, dict[str, Any]]] = []  # scalars to be written, the loss as a tensor
        self._lr: float | None = None
        self._num_nonfinite: dict[str, int] = {}

    @property
    def verdict(self) -> str:
        """`healthy`, or the kind of the worst finding."""
        return verdict_of(self.findings)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Add a `GradientWatch` if the trainer has none."""
        callbacks: Any = trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]
        if stage == "fit" and not any(isinstance(x, GradientWatch) for x in callbacks):
            callbacks.append(GradientWatch(1, 0, signals=MEASURED, signals_every=10))

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Subscribe to the record, in the first process only."""
        self._writer = None
        if not trainer.is_global_zero:  # `find_writer` would create an event file
            return
        self._writer = find_writer(trainer)
        self._owns_scalars = self._writer is None
        if self._writer is None:
            watches = [x for x in trainer.callbacks if isinstance(x, GradientWatch)]  # pyright: ignore[reportAttributeAccessIssue]
            self._writer = next((x.writer for x in watches if x.writer is not None), None)
        if self._writer is None:
            return
        self._history = self._load_history(trainer)
        self._writer.listeners = [self._history, *([_Norms(self._waiting)] if self._owns_scalars else [])]
        if "training" not in self._writer.info:
            network = getattr(pl_module, "network", pl_module)
            planned = describe_training(network, None, trainer, int(trainer.num_training_batches))
            self._writer.write_info(self._writer.info | {"training": planned | {"prior_loss": self._prior_loss}})

    def _load_history(self, trainer: pl.Trainer) -> History:
        """Return what a resumed run recorded before; an empty history for a new run."""
        assert self._writer is not None
        folder = self._writer.path.parent
        if trainer.global_step == 0 or folder.name != "tensorboard":
            return History()
        return replay(load_bounded(folder.parent))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Record the learning rate and, without a `RecordLogger`, the loss; diagnose if the last pause is over."""
        if self._writer is None:
            return
        start = time.perf_counter()
        step = max(0, trainer.global_step - 1)
        self._record(trainer, step, outputs)
        if step >= MIN_STEPS and start >= self._next_s:
            self._evaluate(step)
            self._next_s = time.perf_counter() + PAUSE_FACTOR * (time.perf_counter() - start)
            self.seconds += time.perf_counter() - start
            self._stop_if_unhealthy(trainer, step)
        else:
            self.seconds += time.perf_counter() - start

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Record the validation metrics, without a `RecordLogger`."""
        if self._writer is not None and self._owns_scalars and not trainer.sanity_checking:
            found = {name: float(v) for name, v in trainer.callback_metrics.items() if name.startswith("val")}
            self._write(max(0, trainer.global_step - 1), found)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Diagnose the whole run and print the verdict."""
        self._conclude(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Diagnose what was recorded until the run failed."""
        self._conclude(trainer)

    def _record(self, trainer: pl.Trainer, step: int, outputs: Any) -> None:
        scalars: dict[str, Any] = {}
        groups = trainer.optimizers[0].param_groups if trainer.optimizers else []
        lr = float(groups[0].get("lr", math.nan)) if groups else math.nan
        if math.isfinite(lr) and lr != self._lr:
            self._lr = scalars[names.LR] = lr
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if step == 0 and not self._owns_scalars:  # later steps are logged by Lightning; the first one sets the scale
            loss = trainer.callback_metrics.get(names.TRAIN_LOSS)
        if (self._owns_scalars or step == 0) and isinstance(loss, Tensor) and loss.numel() == 1:
            scalars[names.TRAIN_LOSS] = loss.detach()
        self._write(step, scalars)

    def _write(self, step: int, scalars: dict[str, Any]) -> None:
        """Buffer the scalars and write several steps at once, which is cheaper right after a backward pass.

        With a `RecordLogger`, which writes losses too, write at once to keep their order.
        """
        if scalars:
            self._waiting.append((step, scalars))
        if len(self._waiting) >= MAX_WAITING or not self._owns_scalars:
            self._write_waiting()

    def _write_waiting(self) -> None:
        waiting = [(step, {name: float(value) for name, value in found.items()}) for step, found in self._waiting]
        self._waiting.clear()
        if self._writer is not None and waiting:
            self._writer.write_steps([(step, finite_scalars(found, self._num_nonfinite)) for step, found in waiting])

    def _diagnose(self, writer: RecordWriter) -> None:
        writer.flush()  # buffered snapshots are not in the history yet
        self._write_waiting()
        self._history.about = about_of(writer.info, self._history.layers)
        self.findings = diagnose(self._history.observations())

    def _evaluate(self, step: int) -> None:
        assert self._writer is not None
        self._diagnose(self._writer)
        alarming = {(f.kind, f.layer): f for f in self.findings if f.alarms}
        for key, finding in alarming.items():
            if key not in self._open:
                where = f" in {finding.layer}" if finding.layer else ""
                self._print(f"step {step}: {finding.severity} {finding.kind}{where}. {finding.advice}")
        for kind, layer in self._open.keys() - alarming.keys():
            self._print(f"step {step}: {kind}{f' in {layer}' if layer else ''} is over")
        self._open = {key: self._open.get(key, step) for key in alarming}

    def _print(self, line: str) -> None:
        self._num_lines += 1
        if self._num_lines <= MAX_LINES:
            self._say(line)

    def _stop_if_unhealthy(self, trainer: pl.Trainer, step: int) -> None:
        if self.fail_on is None or trainer.world_size > 1:
            return
        patience = max(MIN_OPEN, MIN_OPEN_SHARE * (self._history.about.num_steps or 0))
        for finding in self.findings:
            opened = self._open.get((finding.kind, finding.layer), step)
            if finding.severity == "critical" and step - opened >= patience:
                raise SickRun(step, finding.kind, finding.layer)

    def _conclude(self, trainer: pl.Trainer) -> None:
        if self._writer is None:
            return
        self._diagnose(self._writer)
        step = max(0, trainer.global_step - 1)
        self._writer.listeners = []
        self._writer = None
        if self._concludes:
            for line in describe(self.findings, step + 1):
                self._say(line)


class _Norms(History):
    """Collects the total gradient norm of each snapshot, for modules whose clipping does not record it.

    Args:
        found: Receives `(step, scalars)`.
    """

    def __init__(self, found: list[tuple[int, dict[str, Any]]]) -> None:
        super().__init__()
        self._found = found

    def add_snapshot(self, snapshot: Snapshot) -> None:
        """Append the norm of one step."""
        norm = total_norm(snapshot.layers)
        if norm is not None:
            self._found.append((snapshot.step, {names.NORM_TOTAL: norm}))

    def add_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Ignore."""

    def add_time(self, step: int, layer: str, norms: np.ndarray) -> None:
        """Ignore."""

    def add_notice(self, notice: Notice) -> None:
        """Ignore."""
