"""The doctor for any PyTorch training loop: measure, collect, diagnose."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from stabletrain.diagnosis.doctor import diagnose
from stabletrain.diagnosis.findings_text import describe
from stabletrain.diagnosis.history import History, total_norm
from stabletrain.diagnosis.observations import About, Observations, num_dims_by_layer
from stabletrain.inspection.inspections import Inspections
from stabletrain.inspection.inspector import StepView
from stabletrain.signal.cadence import is_due
from stabletrain.signal.layer_names import clean_name
from stabletrain.signal.snapshot import Snapshot
from stabletrain.signal.through_time import gradient_through_time
from stabletrain.signal.watch import OF_STEP, Watch
from stabletrain.torch_tools.thread_pool import PoolWatch, describe_spinning
from stabletrain.vocabulary import metric_names as names
from stabletrain.vocabulary.finding import Finding, verdict_of
from stabletrain.vocabulary.signals import CLIP, GRADIENT, SIGNALS

EVERY = 10  # steps between two measurements of signals other than the gradient; as in conf/watch/default.yaml
SPINNING_REMEDY = (
    "Call torch.set_num_threads(1), or start Python with OMP_WAIT_POLICY=PASSIVE in its environment (it has no effect "
    "once torch is imported)."
)
FIRST = 10  # first steps, all of which are measured: they show the initialization


class Doctor:
    """Watches a model in a plain training loop and diagnoses its training.

    Call `step` after `loss.backward()` and before `optimizer.step()`. It observes only. It keeps at most 4,096 steps of
    each measurement, and 12 bytes per step of each scalar such as the loss.

    Args:
        model: Any `torch.nn.Module`, with or without shared weights, unused branches and frozen layers.
        optimizer: The model's optimizer. It gives the doctor the size of each update, the learning rate, and the effect
            of clipping between `doctor.step` and `optimizer.step`.
        num_steps: Training budget in steps. Without it, rules that compare progress with the budget do not apply.
        prior_loss: Loss of the best constant prediction (chance level): the labels' entropy, or the targets' variance.

    Example:
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
        >>> doctor = Doctor(model)
        >>> for _ in range(5):
        ...     loss = model(torch.ones(4, 3)).square().mean()
        ...     loss.backward()
        ...     doctor.step(loss)
        >>> doctor.verdict
        'healthy'
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        optimizer: Optimizer | None = None,
        num_steps: int | None = None,
        prior_loss: float | None = None,
    ) -> None:
        signals = [signal for signal in SIGNALS if optimizer is not None or signal not in OF_STEP]
        self._watch = Watch(model, optimizer=optimizer, signals=signals)
        self._watch.expect(taps=True, histograms=False)
        self._inspections = Inspections(model)
        self._model, self._optimizer = model, optimizer
        self._about = {"num_steps": num_steps, "prior_loss": prior_loss}
        self._num_dims = {clean_name(path): p.dim() for path, p in model.named_parameters()}
        self._history = History()
        self._step = 0
        self._pending: Snapshot | None = None
        self._added: set[str] = set()  # signals of the pending snapshot that are in the history
        self._loss: Tensor | float | None = None
        self._norm: float | None = None
        self._lr: float | None = None
        self._first_lr: float | None = None
        self._last_time = -EVERY
        self._num_measured = self._num_clipped = 0
        self._notes: list[str] = []
        on_cpu = all(p.device.type == "cpu" for p in model.parameters())
        self._pool = PoolWatch(self._note_spinning) if on_cpu else None

    def step(self, loss: Tensor | float | None = None) -> None:
        """Measure the gradients, and on some steps all other signals.

        Args:
            loss: Loss of this step.
        """
        if self._pool is not None:
            self._pool.step()
        self._collect()
        self._pending = self._watch.step(histograms=False, step=self._step, others=_is_measured(self._step))
        self._added = set()
        self._loss = loss.detach() if isinstance(loss, Tensor) else loss
        optimizers = () if self._optimizer is None else (self._optimizer,)
        for notice in self._inspections.step(StepView(self._step, self._model, loss, optimizers, self._pending)):
            self._history.add_notice(notice)
        self._note_lr()
        self._step += 1
        self._watch.expect(taps=_is_measured(self._step), histograms=False)

    def validate(self, **metrics: float) -> None:
        """Record validation metrics, such as `accuracy=0.9` or `loss=0.3`."""
        self._history.add_scalars(
            max(0, self._step - 1), {names.of_signal("val", name): float(v) for name, v in metrics.items()}
        )

    def follow_time(self, inputs: Any, loss_of_outputs: Callable[[Any], Tensor]) -> None:
        """Measure the gradient through time of recurrent layers on a few examples.

        It may be called every step: it measures on the first ten steps and then once every ten steps.

        Args:
            inputs: Arguments of the model: a tensor, or a tuple. Eight examples are enough.
            loss_of_outputs: Maps the model's outputs for these inputs to a scalar loss.
        """
        if self._step >= FIRST and self._step - self._last_time < EVERY:
            return
        self._last_time = self._step
        for found in gradient_through_time(self._model, inputs, loss_of_outputs):
            self._history.add_time(self._step, found.layer, found.norms)

    @property
    def observations(self) -> Observations:
        """All measurements so far, as the rules read them."""
        self._collect()
        settings = {} if self._first_lr is None else {"optimizer.lr": self._first_lr}
        dims = num_dims_by_layer(self._watch.layers, self._num_dims)
        self._history.about = About(settings=settings, num_dims=dims, **self._about)  # pyright: ignore[reportArgumentType]
        return self._history.observations()

    @property
    def findings(self) -> list[Finding]:
        """The findings so far, each cause before its symptoms."""
        return diagnose(self.observations)

    @property
    def verdict(self) -> str:
        """`healthy`, or the kind of the worst finding."""
        return verdict_of(self.findings)

    def report(self) -> str:
        """Return the verdict and the findings with their advice as text."""
        if not self.observations.rms:
            return "verdict: none; no gradient was measured: call step() after backward()"
        return "\n".join([*describe(self.findings), *(f"  note: {note}" for note in self._notes)])

    def _note_spinning(self, num_threads: int, share: float) -> None:
        """Log a warning, and keep the note for the report; it is no finding, and the verdict stays."""
        note = describe_spinning(num_threads, share, SPINNING_REMEDY)
        self._notes.append(note)
        logging.getLogger(__name__).warning(note)

    def detach(self) -> None:
        """Remove all hooks from the model and the optimizer."""
        self._collect()
        self._watch.detach()
        self._inspections.detach()

    def _collect(self) -> None:
        """Add the pending snapshot to the history; signals of the optimizer's step arrive later than the others."""
        snapshot = self._pending
        if snapshot is None:
            return
        new = {signal: layers for signal, layers in snapshot.signals.items() if signal not in self._added}
        if self._added:
            self._history.add_snapshot(Snapshot(snapshot.step, (), new))
        else:
            self._history.add_snapshot(snapshot)
            self._add_loss_and_norm(snapshot)
        self._added |= {GRADIENT, *new}
        if CLIP in new:
            self._add_clipping(snapshot)

    def _add_loss_and_norm(self, snapshot: Snapshot) -> None:
        self._norm = total_norm(snapshot.layers)
        scalars = {} if self._norm is None else {names.NORM_TOTAL: self._norm}
        if self._loss is not None:
            scalars[names.TRAIN_LOSS] = float(self._loss)
        self._history.add_scalars(snapshot.step, scalars)

    def _add_clipping(self, snapshot: Snapshot) -> None:
        after = total_norm(snapshot.signals[CLIP])
        if after is None or self._norm is None:
            return
        self._num_measured += 1
        self._num_clipped += after < self._norm * (1 - 1e-6)  # the norm is accurate to the six digits of float32
        scalars = {names.NORM_AFTER: after, names.CLIP_FRACTION: self._num_clipped / self._num_measured}
        self._history.add_scalars(snapshot.step, scalars)

    def _note_lr(self) -> None:
        lr = float(self._optimizer.param_groups[0].get("lr", math.nan)) if self._optimizer else math.nan
        if math.isfinite(lr) and lr != self._lr:
            self._lr = lr
            self._first_lr = lr if self._first_lr is None else self._first_lr
            self._history.add_scalars(self._step, {names.LR: lr})


def _is_measured(step: int) -> bool:
    return step < FIRST or is_due(step, EVERY)
