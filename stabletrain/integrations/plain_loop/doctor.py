"""The doctor for any PyTorch training loop: measure, collect, diagnose."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from html import escape
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.optim import Optimizer

from stabletrain.diagnosis.coverage import find_unseen, supported
from stabletrain.diagnosis.doctor import diagnose
from stabletrain.diagnosis.findings_text import describe
from stabletrain.diagnosis.history import History
from stabletrain.diagnosis.observations import About, Observations, num_dims_by_layer
from stabletrain.diagnosis.openings import Openings
from stabletrain.inspection.inspections import Inspections
from stabletrain.inspection.inspector import StepView
from stabletrain.inspection.optimizers import Optimizers, unwrap
from stabletrain.inspection.prior_loss import PriorLoss
from stabletrain.inspection.time_flow import TimeFlow
from stabletrain.integrations.plain_loop.arguments import (
    require_initialized,
    require_loss,
    require_metrics,
    require_optimizers,
    require_settings,
)
from stabletrain.integrations.plain_loop.models import join, parts_of
from stabletrain.integrations.plain_loop.recording import StepRecorder
from stabletrain.integrations.plain_loop.saving import RunOfDoctor, save_run, ship
from stabletrain.integrations.plain_loop.schedule import EVERY, FIRST, Schedule
from stabletrain.integrations.plain_loop.sick_weights import with_bad_weights
from stabletrain.integrations.plain_loop.skipped import Skipped
from stabletrain.integrations.plain_loop.unjudged import in_one_line, unjudged, why_unknown
from stabletrain.signal.cadence import is_due
from stabletrain.signal.layer_names import clean_name
from stabletrain.signal.through_time import gradient_through_time
from stabletrain.signal.watch import Watch
from stabletrain.torch_tools.frozen import frozen_share
from stabletrain.torch_tools.thread_pool import PoolWatch, describe_spinning
from stabletrain.torch_tools.weight_gain import weight_gain
from stabletrain.vocabulary import metric_names as names
from stabletrain.vocabulary.clients import LOOP
from stabletrain.vocabulary.finding import HEALTHY, UNKNOWN, Finding, verdict_of
from stabletrain.vocabulary.signals import SIGNALS
from stabletrain.vocabulary.statuses import FAILED, FINISHED

SPINNING_REMEDY = (
    "Call torch.set_num_threads(1), or start Python with OMP_WAIT_POLICY=PASSIVE in its environment (it has no effect "
    "once torch is imported)."
)
HISTOGRAMS_EVERY = 50  # steps; as in conf/watch/default.yaml
MIN_STEPS = 150  # as the shortest trainings of the benchmark; fewer are not judged by what they have reached


class Judgement(NamedTuple):
    """What was measured, what follows from it, and why nothing follows from nothing found, if that is so."""

    observations: Observations
    findings: list[Finding]
    why_unknown: str | None

    @property
    def verdict(self) -> str:
        """`healthy`, the kind of the worst finding, or `unknown`."""
        return verdict_of(self.findings, is_unknown=self.why_unknown is not None)


class Doctor:
    """Watches a model in a plain training loop and diagnoses its training.

    Call `step` after `loss.backward()` and before `optimizer.step()`. It observes only. It keeps at most 4,096 steps of
    each measurement, and 12 bytes per step of each scalar such as the loss.

    Nothing but the model need be told. The optimizers are recognized on their first step. The loss at chance level is
    inferred from the outputs of the first steps and their gradients, for the usual losses. Without `num_steps`, a
    diagnosis of 150 or more steps judges the training as if it ended there; if the loop goes on after a diagnosis, the
    following ones expect it to go on. `report` says what could not be judged, and the argument that would allow it.

    Args:
        model: Any `torch.nn.Module`, with or without shared weights, unused branches and frozen layers; or several
            that are trained together, as a sequence or by name, such as the two networks of a GAN.
        optimizer: The model's optimizer or optimizers, for those that are no `torch.optim.Optimizer` of torch.
        num_steps: Training budget in steps.
        prior_loss: Loss of the best constant prediction (chance level): the labels' entropy, or the targets' variance.
        on_finding: Called with one line when a finding opens or closes during the training, such as `print`.
        skip_nonfinite: Whether `step` returns False if the loss or a gradient contains Inf or NaN.
        output_dir: Folder to which the run is saved at the end of a `with` block.

    Example:
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
        >>> doctor = Doctor(model)
        >>> for _ in range(5):
        ...     loss = model(torch.ones(4, 3)).square().mean()
        ...     loss.backward()
        ...     _ = doctor.step(loss)
        >>> doctor.verdict
        'healthy'
    """

    def __init__(
        self,
        model: nn.Module | Sequence[nn.Module] | Mapping[str, nn.Module],
        *,
        optimizer: Optimizer | Iterable[Optimizer] | None = None,
        num_steps: int | None = None,
        prior_loss: float | None = None,
        on_finding: Callable[[str], object] | None = None,
        skip_nonfinite: bool = False,
        output_dir: Path | str | None = None,
    ) -> None:
        require_settings(num_steps, prior_loss, on_finding, output_dir)
        self._model = model = require_initialized(join(model))
        given = require_optimizers(optimizer)
        self._optimizers = Optimizers(model, given)
        self._history = History()
        self._recorder = StepRecorder(self._history, model, self._optimizers, next((unwrap(x) for x in given), None))
        self._watch = Watch(model, optimizer=self._optimizers, signals=SIGNALS)  # pyright: ignore[reportArgumentType]
        self._schedule = Schedule(model)
        self._inspections = Inspections(model)
        self._prior = PriorLoss(parts_of(model)) if prior_loss is None else None
        self._flow: TimeFlow | None = TimeFlow(model)
        self._num_steps, self._prior_loss = num_steps, prior_loss
        self._num_dims = {clean_name(path): p.dim() for path, p in model.named_parameters()}
        self._weight_gain: float | None = None  # on the first step: a model may be initialized after the doctor is made
        self._step = 0
        self._last_time = -EVERY
        self._notes: list[str] = []
        self._openings = None if on_finding is None else Openings()
        self._say = on_finding or (lambda line: None)
        self._skipped = Skipped() if skip_nonfinite else None
        self._output_dir, self._events = output_dir, set[Path]()
        self._was_asked = self._goes_on = self._is_over = False
        self._start_s = self._end_s = self._own_s = 0.0
        on_cpu = all(p.device.type == "cpu" for p in model.parameters())
        self._pool = PoolWatch(self._note_spinning) if on_cpu else None
        self._expect()

    def step(self, loss: Tensor | float | None = None) -> bool:
        """Measure the gradients, and on some steps all other signals.

        Args:
            loss: Loss of this step.

        Returns:
            False if the optimizer should skip this step, which happens only with `skip_nonfinite=True`:
            `if doctor.step(loss): optimizer.step()`. It reads the gradients on every step then, for which a GPU has to
            wait.
        """
        require_loss(loss)
        start_s = time.perf_counter()
        self._start_s = self._start_s or start_s
        self._goes_on |= self._was_asked
        if self._pool is not None:
            self._pool.step()
        self._optimizers.settle()
        if self._step == 0:
            self._weight_gain = weight_gain(self._model)
        self._recorder.collect()
        with_histograms = self._step == 0 or is_due(self._step, HISTOGRAMS_EVERY)
        others = self._schedule.is_measured(self._step)
        snapshot = self._watch.step(histograms=with_histograms, step=self._step, others=others)
        self._recorder.begin(snapshot, loss, with_histograms)
        self._look_at_outputs()
        view = StepView(self._step, self._model, loss, self._optimizers.known, snapshot)
        for notice in self._inspections.step(view):
            self._history.add_notice(notice)
        goes = self._skipped is None or not self._skipped.note(self._step, self._recorder.loss, snapshot.layers)
        self._step += 1
        self._expect()
        if self._openings is not None and self._openings.is_due(self._step - 1):
            self._announce()
        self._end_s = time.perf_counter()
        self._own_s += self._end_s - start_s
        return goes

    def validate(self, **metrics: float) -> None:
        """Record validation metrics, such as `accuracy=0.9` or `loss=0.3`."""
        found = {names.of_signal(names.VAL, name): value for name, value in require_metrics(metrics).items()}
        self._history.add_scalars(max(0, self._step - 1), found)

    def follow_time(self, inputs: Any, loss_of_outputs: Callable[[Any], Tensor]) -> None:
        """Measure the gradient through time of recurrent layers on a few examples.

        The layers of torch are measured without this call, from the gradients of the training itself. It measures other
        layers as well, such as those of `stabletrain.network`; from the first call on, it alone does. It may be called
        every step: it measures on the first ten steps and then once every ten steps.

        Args:
            inputs: Arguments of the model: a tensor, or a tuple. Eight examples are enough.
            loss_of_outputs: Maps the model's outputs for these inputs to a scalar loss.
        """
        if self._flow is not None:
            self._flow.close()
            self._flow = None
        if self._step >= FIRST and self._step - self._last_time < EVERY:
            return
        self._last_time = self._step
        for found in gradient_through_time(self._model, inputs, loss_of_outputs):
            self._history.add_time(self._step, found.layer, found.norms)

    @property
    def observations(self) -> Observations:
        """All measurements so far, as the rules read them."""
        self._was_asked |= self._step >= MIN_STEPS
        found = self._observe(as_ended=self._is_over or not self._goes_on)
        return found if self._is_over else self._with_bad_weights(found)

    @property
    def findings(self) -> list[Finding]:
        """The findings so far, each cause before its symptoms."""
        return self._judge(self.observations).findings

    @property
    def verdict(self) -> str:
        """`healthy`, the kind of the worst finding, or `unknown` if too little was seen to tell."""
        return self._judge(self.observations).verdict

    @property
    def num_skipped(self) -> int:
        """Number of steps on which `step` returned False."""
        return 0 if self._skipped is None else self._skipped.count

    def report(self) -> str:
        """Return the verdict, the findings with their advice, and what could not be judged, as text."""
        return self._describe(self._judge(self.observations))

    def save(self, folder: Path | str, *, mlflow: bool = False) -> Path:
        """Write the run to a folder: `report.html`, `findings.json`, `summary.json` and the record.

        The commands `report`, `diagnose`, `sync` and `ui` accept the folder. It may be called again, with the same
        folder or another one.

        Args:
            folder: A new folder, or one to which this doctor has saved before.
            mlflow: Whether to ship the run to MLflow, by `python -m stabletrain sync` in a process of its own.

        Returns:
            The page, `report.html`.

        Raises:
            RequestError: The folder holds another run, or the run could not be shipped.
        """
        return self._save(folder, FINISHED, mlflow)

    def detach(self) -> None:
        """Remove all hooks from the model and the optimizer, after the last step."""
        self._optimizers.settle()
        self._recorder.collect()
        if not self._is_over:  # afterwards the weights may be those of another training
            for notice in self._with_bad_weights(self._history.observations()).notices:
                self._history.add_notice(notice)
        self._watch.detach()
        self._inspections.detach()
        self._optimizers.detach()
        for looking in (self._prior, self._flow):
            if looking is not None:
                looking.close()
        self._is_over = True

    def __enter__(self) -> Doctor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._inspect_failure(error)
        self.detach()
        if self._openings is not None:
            self._announce()
        if self._output_dir is None:
            return
        try:
            self._save(self._output_dir, FINISHED if kind is None else FAILED, mlflow=False)
        except Exception as failure:
            if error is None:
                raise
            logging.getLogger(__name__).warning("the run was not saved: %s", failure)  # what stopped it counts

    def _repr_html_(self) -> str:
        """Return the report for a notebook."""
        judgement = self._judge(self.observations)
        head, *rest = self._describe(judgement).splitlines()
        color = {HEALTHY: "#2e7d32", UNKNOWN: "#b26a00"}.get(judgement.verdict, "#b3261e")
        body = f"<pre>{escape(chr(10).join(rest))}</pre>" if rest else ""
        return f'<div><strong style="color: {color}">{escape(head)}</strong>{body}</div>'

    def _with_bad_weights(self, observations: Observations) -> Observations:
        return with_bad_weights(observations, self._model, self._optimizers.known, self._step)

    def _observe(self, as_ended: bool) -> Observations:
        self._recorder.collect()
        num_steps = self._num_steps
        if num_steps is None and as_ended and self._step >= MIN_STEPS:
            num_steps = self._step
        measured = None if self._prior is None else self._prior.value
        self._history.about = About(
            client=LOOP,
            settings={} if self._recorder.first_lr is None else {"optimizer.lr": self._recorder.first_lr},
            num_steps=num_steps,
            num_dims=num_dims_by_layer(self._watch.layers, self._num_dims),
            prior_loss=measured if self._prior_loss is None else self._prior_loss,
            prior_is_measured=measured is not None,
            frozen_share=frozen_share(self._model),
            weight_gain=self._weight_gain,
            is_game=self._optimizers.takes_turns,
            is_open_ended=self._num_steps is None,
        )
        return self._history.observations()

    def _judge(self, observations: Observations) -> Judgement:
        """Return the findings, and what they are worth.

        A recurrent network first forgets, then learns to remember: unless the user asks for it, the gradient through
        time is not held against a training that has hardly begun.
        """
        is_early = self._flow is not None and observations.about.num_steps is None and self._step < MIN_STEPS
        found = diagnose(replace(observations, time={}) if is_early else observations)
        findings = supported(found, find_unseen(observations))
        return Judgement(observations, findings, why_unknown(observations, self._step))

    def _describe(self, judgement: Judgement) -> str:
        notes = self._notes if self._skipped is None else [*self._notes, *self._skipped.describe()]
        lines = [f"  note: {note}" for note in notes]
        if judgement.verdict == UNKNOWN:
            return "\n".join([f"verdict: {UNKNOWN}; {judgement.why_unknown}", *lines])
        missing = unjudged(
            judgement.observations,
            num_steps=self._step,
            is_planned=self._num_steps is not None,
            is_recurrent=self._flow is not None and self._flow.is_recurrent,
        )
        return "\n".join([*describe(judgement.findings), *lines, *in_one_line(missing)])

    def _announce(self) -> None:
        assert self._openings is not None
        start_s = time.perf_counter()
        found = self._judge(self._observe(as_ended=self._is_over)).findings
        for line in self._openings.changes(max(0, self._step - 1), found):
            self._say(line)
        self._openings.note_cost(self._step, time.perf_counter() - start_s)

    def _save(self, folder: Path | str, status: str, mlflow: bool) -> Path:
        observations = self._observe(as_ended=True)
        judgement = self._judge(observations)
        run = RunOfDoctor(
            observations=observations,
            findings=judgement.findings,
            verdict=judgement.verdict,
            num_steps=self._step,
            seconds=self._end_s - self._start_s,
            doctor_seconds=self._own_s + self._watch.tap_seconds,
            status=status,
            model_class=type(self._model).__name__,
            num_parameters=sum(p.numel() for p in self._model.parameters()),
            num_dims=self._num_dims,
            snapshots=self._recorder.snapshots,
        )
        saved, events = save_run(run, folder, self._events)
        self._events.add(events)
        if mlflow:
            ship(saved)
        return saved.report

    def _inspect_failure(self, error: BaseException) -> None:
        """Explain a NaN that an exception stopped, such as one of the user's own, before `step` was called."""
        for notice in self._inspections.step_failed(StepView(self._step, self._model, None), error):
            self._history.add_notice(notice)

    def _expect(self) -> None:
        """Prepare for the coming forward pass."""
        self._watch.expect(taps=self._schedule.is_measured(self._step), histograms=False)
        if self._prior is not None:
            self._prior.open()
        if self._flow is not None and self._schedule.follows_time(self._step):
            self._flow.open()

    def _look_at_outputs(self) -> None:
        if self._prior is not None:
            self._prior.see(self._recorder.loss)
        if self._flow is not None and self._schedule.follows_time(self._step):
            for found in self._flow.collect():
                self._history.add_time(self._step, found.layer, found.norms)

    def _note_spinning(self, num_threads: int, share: float) -> None:
        """Log a warning, and keep the note for the report; it is no finding, and the verdict stays."""
        note = describe_spinning(num_threads, share, SPINNING_REMEDY)
        self._notes.append(note)
        logging.getLogger(__name__).warning(note)
