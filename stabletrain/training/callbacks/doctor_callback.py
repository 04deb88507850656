"""The doctor as a callback: reports findings as they open and close during the run, and the verdict at its end."""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytorch_lightning as pl
from torch import Tensor
from torch.optim import Optimizer

from stabletrain.diagnosis.client_words import GRADIENT_CLIP_VAL, MANUAL
from stabletrain.diagnosis.coverage import GRADIENTS, LOSS, UPDATES, find_unseen, is_unknown
from stabletrain.diagnosis.doctor import diagnose
from stabletrain.diagnosis.findings_text import describe
from stabletrain.diagnosis.history import History, finite_scalars, total_norm
from stabletrain.diagnosis.offender import with_offender
from stabletrain.diagnosis.openings import Openings
from stabletrain.diagnosis.recorded_run import about_of, replay
from stabletrain.errors import require_choice
from stabletrain.inspection.inspections import Inspections
from stabletrain.inspection.inspector import StepView
from stabletrain.inspection.prior_loss import PriorLoss
from stabletrain.record.bounded_reader import load_bounded
from stabletrain.record.run_folder import RunFolder
from stabletrain.record.writer import RecordWriter
from stabletrain.signal.snapshot import Snapshot
from stabletrain.torch_tools.traceback_values import find_nonfinite
from stabletrain.training.callbacks.backward_losses import BackwardLosses
from stabletrain.training.callbacks.gradient_watch import GradientWatch
from stabletrain.training.callbacks.loss_logging import LogLoss
from stabletrain.training.callbacks.offender_bundle import OffenderBundle
from stabletrain.training.lightning_internals import has_hook
from stabletrain.training.lightning_packages import Callback
from stabletrain.training.loggers import RecordLogger, find_writer
from stabletrain.training.module import TrainingModule
from stabletrain.training.optimization.stability import NonFiniteGradient, SickRun, StabilityStop
from stabletrain.training.run_plan import describe_training
from stabletrain.training.step_numbers import current_step, last_step, trained_network
from stabletrain.vocabulary import metric_names as names
from stabletrain.vocabulary.clients import LIGHTNING
from stabletrain.vocabulary.finding import Finding, verdict_of
from stabletrain.vocabulary.kinds import KINDS
from stabletrain.vocabulary.notice import Notice
from stabletrain.vocabulary.signals import ACTIVATION, DELTA, GRADIENT, UNITS, UPDATE
from stabletrain.vocabulary.statuses import FAILED, FINISHED, RUNNING, STOPPED, TERMINATED
from stabletrain.vocabulary.usual_names import usual_name

MAX_WAITING = 10  # steps whose loss and learning rate are written together
MAX_LINES = 12  # printed during a run; all findings are listed at its end
MIN_OPEN = 20  # steps that a critical finding must stay open before it stops the run …
MIN_OPEN_SHARE = 0.05  # … and at least this fraction of the training budget
IS_GAME, PRIOR_LOSS, PRIOR_IS_MEASURED = "is_game", "prior_loss", "prior_is_measured"  # of `About`, in the record
ANOMALY = "returned nan values"  # in what torch.autograd.detect_anomaly raises, torch 2.13.0
MEASURED = (GRADIENT, DELTA, ACTIVATION, UPDATE, UNITS)
MEASURED_ON = {"signals_every": 10, "signals_first": 10}  # a rate that is too high shows most on the first steps


class DoctorCallback(Callback):
    """Diagnoses a training run while it runs: prints one line when a finding opens or closes. Observes only.

    It reads what `GradientWatch` and the trainer's `RecordLogger` record. If the trainer has no `GradientWatch`, one is
    added; one that measures less than the doctor needs is extended. If the trainer has no `RecordLogger`, its log
    folder becomes the folder of a run, with `tensorboard/`, `findings.json` and `summary.json`: `report`, `diagnose`
    and `sync` accept it. The callback itself records

    | name | value |
    |---|---|
    | learning rate | of the first parameter group, whenever it changes |
    | `train/loss` | the loss of every step as the first process' `backward` gets it, whatever the module logs |
    | `val/loss`, `val/accuracy`, … | what the module logs, under usual names such as `val_acc` |
    | `clip/norm_after`, `clip/fraction` | of the trainer's `gradient_clip_val` |

    Attributes:
        findings: The findings so far.
        unseen: What could not be measured, of `loss`, `gradient` and `update`: everything before training, and of a
            callback of which the library trains with a copy.

    Args:
        fail_on: `critical` or `warning`: a critical finding that stays open stops the run by raising `SickRun`, but
            only in single-process training. `warning` matters at the end of a run only, for the command's exit code.
        prior_loss: Loss of the best constant prediction (chance level): the labels' entropy, or the targets' variance.
            If None and not in the record, it is inferred from the outputs of the first steps and their gradients, for
            the usual losses under automatic optimization.
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
        self.unseen: tuple[str, ...] = (LOSS, GRADIENTS, UPDATES)
        self.seconds = 0.0
        self._prior_loss = prior_loss
        self._say = say or print
        self._concludes = say is None
        self._leave_training()

    def _leave_training(self) -> None:
        self._history = History()
        self._writer: RecordWriter | None = None
        self._owns_scalars = self._records_loss = False
        self._losses = BackwardLosses()
        self._inspections: Inspections | None = None
        self._offender: dict[str, Any] = {}
        self._start_s = 0.0
        self._openings = Openings(by_steps=False)
        self._num_lines = 0
        self._waiting: list[tuple[int, dict[str, Any]]] = []  # scalars to be written, the loss as a tensor
        self._lr: float | None = None
        self._num_nonfinite: dict[str, int] = {}
        self._prior: PriorLoss | None = None
        self._num_micro = 1  # batches in one step

    @property
    def verdict(self) -> str:
        """The kind of the worst finding; without one `healthy`, or `unknown` if too little was seen."""
        return verdict_of(self.findings, is_unknown(self.unseen))

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Add a `GradientWatch` if the trainer has none; extend one that was not configured together with a record."""
        if stage != "fit":
            return
        watches = _watches(trainer)
        if not watches:
            callbacks: Any = trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]
            callbacks.append(GradientWatch(1, 0, signals=MEASURED, **MEASURED_ON))
        elif not any(isinstance(logger, RecordLogger) for logger in trainer.loggers):
            watches[0].extend(MEASURED, statistics_every=1, **MEASURED_ON)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Subscribe to the record, in the first process only."""
        self._writer, self._offender = None, {}
        if not trainer.is_global_zero:  # `find_writer` would create an event file
            return
        self._writer = find_writer(trainer)
        self._owns_scalars = self._writer is None
        self._records_loss = self._owns_scalars or not _logs_mean_loss(trainer, pl_module)
        self._start_s = time.perf_counter()
        if self._writer is None:
            self._writer = next((x.writer for x in _watches(trainer) if x.writer is not None), None)
        if self._writer is None:
            return
        network = trained_network(pl_module)
        self._history = self._load_history(trainer)
        norms = _Norms(self._waiting, _clip_value(trainer, pl_module))
        self._writer.listeners = [self._history, *([norms] if self._owns_scalars else [])]
        if "training" not in self._writer.info:
            planned = describe_training(network, None, trainer, int(trainer.num_training_batches))
            planned |= {PRIOR_LOSS: self._prior_loss, "client": LIGHTNING}
            settings = {GRADIENT_CLIP_VAL: trainer.gradient_clip_val, MANUAL: not pl_module.automatic_optimization}
            settings = {key: value for key, value in settings.items() if value}
            known = {"parameters": settings | self._writer.info.get("parameters", {}), "training": planned}
            self._writer.write_info(self._writer.info | known)
        self._losses, self._inspections = BackwardLosses(), Inspections(network)
        is_known = self._writer.info["training"].get(PRIOR_LOSS) is not None
        tells_prior = isinstance(pl_module, TrainingModule) and not self._owns_scalars
        if not is_known and not tells_prior and pl_module.automatic_optimization:
            self._num_micro = trainer.accumulate_grad_batches
            self._prior = PriorLoss([network, *network.children()])  # a training step need not call the whole
            self._prior.open()
        if self._folder is not None:
            self._folder.update_summary(status=RUNNING, verdict=None, steps=trainer.global_step)

    @property
    def _folder(self) -> RunFolder | None:
        """The folder of the run; None if it is not this callback that concludes it."""
        return RunFolder(self._writer.path.parent.parent) if self._writer is not None and self._owns_scalars else None

    def _load_history(self, trainer: pl.Trainer) -> History:
        """Return what a resumed run recorded before; an empty history for a new run."""
        assert self._writer is not None
        folder = self._writer.path.parent
        if trainer.global_step == 0 or folder.name != "tensorboard":
            return History()
        return replay(load_bounded(folder.parent))

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        """Keep the loss, in whatever way the module reports it."""
        if self._writer is not None:
            self._losses.note(trainer, loss)

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Infer the targets of a micro-batch from its outputs and their gradients, on the first steps."""
        if self._prior is not None and not self._prior.is_done:
            self._prior.see(self._losses.last)
            self._prior.open()

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Inspect the step; with several optimizers once for all, at the end of the batch."""
        if self._writer is None:
            return
        self._losses.note_step(trainer, optimizer)
        if len(trainer.optimizers) == 1:
            start = time.perf_counter()
            self._inspect(current_step(trainer), trainer)
            self.seconds += time.perf_counter() - start

    def _note_game(self) -> None:
        """Write that optimizers step in turn, once it is known."""
        assert self._writer is not None
        training = self._writer.info["training"]
        if self._losses.takes_turns and not training.get(IS_GAME):
            self._writer.write_info(self._writer.info | {"training": training | {IS_GAME: True}})

    def _inspect(self, step: int, trainer: pl.Trainer) -> None:
        assert self._inspections is not None
        assert self._writer is not None
        view = StepView(step, self._inspections.model, self._losses.graph, tuple(trainer.optimizers))
        for notice in self._inspections.step(view):
            self._writer.write_notice(notice)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Record the learning rate and the loss; diagnose if the last pause is over."""
        if self._writer is None:
            return
        start = time.perf_counter()
        step = last_step(trainer)
        if len(trainer.optimizers) > 1:
            self._inspect(step, trainer)
            self._note_game()
        self._record(trainer, step, outputs)
        if self._openings.is_due(step):
            self._evaluate(step)
            self._openings.note_cost(step, time.perf_counter() - start)
            self.seconds += time.perf_counter() - start
            self._stop_if_unhealthy(trainer, step)
        else:
            self.seconds += time.perf_counter() - start

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Record the validation metrics, without a `RecordLogger`."""
        if self._writer is None or trainer.sanity_checking:
            return
        logged = {name: float(v) for name, v in trainer.callback_metrics.items()}
        found = {name: v for name, v in logged.items() if name.startswith(names.VAL)} if self._owns_scalars else {}
        found |= {ours: v for name, v in logged.items() if (ours := _usual(name)) is not None and ours not in logged}
        self._write(last_step(trainer), found)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Diagnose the whole run and print the verdict."""
        self._conclude(trainer, FINISHED)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Diagnose what was recorded until the run failed, and the step that failed."""
        if self._writer is not None:
            for watch in _watches(trainer):
                watch.on_exception(trainer, pl_module, exception)
            for bundle in (x for x in trainer.callbacks if isinstance(x, OffenderBundle)):  # pyright: ignore[reportAttributeAccessIssue]
                bundle.on_exception(trainer, pl_module, exception)
                self._offender = bundle.about
            self._inspect_failure(current_step(trainer), trainer, exception)
            self._record_failure(current_step(trainer), exception)
        status = STOPPED if isinstance(exception, StabilityStop) else FAILED
        self._conclude(trainer, status if isinstance(exception, Exception) else TERMINATED)

    def _inspect_failure(self, step: int, trainer: pl.Trainer, error: BaseException) -> None:
        if self._inspections is not None and self._writer is not None:
            view = StepView(step, self._inspections.model, self._losses.graph, tuple(trainer.optimizers))
            for notice in self._inspections.step_failed(view, error):
                self._writer.write_notice(notice)

    def _record_failure(self, step: int, error: BaseException) -> None:
        """Record the loss of a step that raised. NaN counts wherever it was met: in a check, or by torch's own."""
        loss = self._losses.take_unfinished()
        value = None if loss is None else float(loss)
        is_met = isinstance(error, NonFiniteGradient) or ANOMALY in str(error) or find_nonfinite(error) is not None
        if value is not None or is_met:
            self._write(step, {names.TRAIN_LOSS: math.nan if is_met or value is None else value})

    def _record(self, trainer: pl.Trainer, step: int, outputs: Any) -> None:
        scalars: dict[str, Any] = {}
        groups = trainer.optimizers[0].param_groups if trainer.optimizers else []
        lr = float(groups[0].get("lr", math.nan)) if groups else math.nan
        if math.isfinite(lr) and lr != self._lr:
            self._lr = scalars[names.LR] = lr
        loss = self._losses.take()
        if step == 0 and not self._records_loss:  # later steps are logged by Lightning; the first one sets the scale
            loss = trainer.callback_metrics.get(names.TRAIN_LOSS)
        if (self._records_loss or step == 0) and loss is not None:
            scalars[names.TRAIN_LOSS] = loss
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
        self._write_prior_loss(writer)
        writer.flush()  # buffered snapshots are not in the history yet
        self._write_waiting()
        self._history.about = about_of(writer.info, self._history.layers)
        observations = with_offender(self._history.observations(), self._offender)
        self.findings, self.unseen = diagnose(observations), find_unseen(observations)

    def _write_prior_loss(self, writer: RecordWriter) -> None:
        """Write the inferred loss at chance level, once it is known; Lightning divides losses by the micro-batches."""
        value = None if self._prior is None else self._prior.value
        training = writer.info.get("training", {})
        if value is not None and training.get(PRIOR_LOSS) != value * self._num_micro:
            known = {PRIOR_LOSS: value * self._num_micro, PRIOR_IS_MEASURED: True}
            writer.write_info(writer.info | {"training": training | known})

    def _evaluate(self, step: int) -> None:
        assert self._writer is not None
        self._diagnose(self._writer)
        for line in self._openings.changes(step, self.findings):
            self._print(line)

    def _print(self, line: str) -> None:
        self._num_lines += 1
        if self._num_lines <= MAX_LINES:
            self._say(line)

    def _stop_if_unhealthy(self, trainer: pl.Trainer, step: int) -> None:
        if self.fail_on is None or trainer.world_size > 1:
            return
        patience = max(MIN_OPEN, MIN_OPEN_SHARE * (self._history.about.num_steps or 0))
        for finding in self.findings:
            opened = self._openings.opened(finding)
            if finding.severity == "critical" and opened is not None and step - opened >= patience:
                raise SickRun(step, finding.kind, finding.layer)

    def _conclude(self, trainer: pl.Trainer, status: str) -> None:
        if self._writer is None:
            return
        self._diagnose(self._writer)
        num_steps = last_step(trainer) + 1
        if self._inspections is not None:
            self._inspections.detach()
            self._inspections = None
        if self._prior is not None:
            self._prior.close()
            self._prior = None
        if (folder := self._folder) is not None:
            self._leave_run(folder, status, num_steps, trainer)
        self._writer.listeners = []
        self._writer = None
        if self._concludes:
            for line in describe(self.findings, num_steps, self.unseen):
                self._say(line)
            if folder is not None and self.verdict in KINDS:
                self._say(f"python -m stabletrain report {shlex.quote(str(folder.path))}")

    def _leave_run(self, folder: RunFolder, status: str, num_steps: int, trainer: pl.Trainer) -> None:
        """Write what makes the log folder the folder of a run."""
        seconds = time.perf_counter() - self._start_s
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        watching = sum(watch.seconds for watch in _watches(trainer))
        folder.write_findings(self.findings)
        folder.update_summary(
            status=status,
            verdict=self.verdict,
            metrics={name: round(value, 6) for name, value in sorted(metrics.items()) if math.isfinite(value)},
            steps=num_steps,
            seconds=round(seconds, 3),
            watch_overhead=round((watching + self.seconds) / max(seconds, 1e-9), 5),
        )


def _watches(trainer: pl.Trainer) -> list[GradientWatch]:
    return [x for x in trainer.callbacks if isinstance(x, GradientWatch)]  # pyright: ignore[reportAttributeAccessIssue]


def _logs_mean_loss(trainer: pl.Trainer, module: pl.LightningModule) -> bool:
    """Return whether the loggers receive the loss of the whole batch, of which this process may have seen a part."""
    is_logged = any(isinstance(x, LogLoss) for x in trainer.callbacks)  # pyright: ignore[reportAttributeAccessIssue]
    return isinstance(module, TrainingModule) or (trainer.world_size > 1 and is_logged)


def _usual(name: str) -> str | None:
    """Return our name of a validation metric that is logged under another usual one; None for anything else."""
    ours = usual_name(name)
    return ours if ours is not None and names.metric_of(ours, names.VAL) is not None else None


def _clip_value(trainer: pl.Trainer, module: pl.LightningModule) -> float | None:
    """Return the largest norm that Lightning lets pass, if it is Lightning that clips, and by norm."""
    if has_hook("configure_gradient_clipping", module) or trainer.gradient_clip_algorithm not in (None, "norm"):
        return None
    return float(trainer.gradient_clip_val) if trainer.gradient_clip_val else None


class _Norms(History):
    """Collects the total gradient norm of each snapshot, for modules whose clipping does not record it.

    Args:
        found: Receives `(step, scalars)`.
        max_norm: The norm to which Lightning clips; None if it does not.
    """

    def __init__(self, found: list[tuple[int, dict[str, Any]]], max_norm: float | None = None) -> None:
        super().__init__()
        self._found, self._max_norm = found, max_norm
        self._num_seen = self._num_clipped = 0

    def add_snapshot(self, snapshot: Snapshot) -> None:
        """Append the norm of one step."""
        norm = total_norm(snapshot.layers)
        if norm is None:
            return
        scalars = {names.NORM_TOTAL: norm}
        if self._max_norm is not None:
            self._num_seen += 1
            self._num_clipped += norm > self._max_norm
            scalars |= {
                names.NORM_AFTER: min(norm, self._max_norm),
                names.CLIP_FRACTION: self._num_clipped / self._num_seen,
            }
        self._found.append((snapshot.step, scalars))

    def add_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Ignore."""

    def add_time(self, step: int, layer: str, norms: np.ndarray) -> None:
        """Ignore."""

    def add_notice(self, notice: Notice) -> None:
        """Ignore."""
