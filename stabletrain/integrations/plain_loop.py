"""The doctor in any training loop: watch, collect, diagnose."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from stabletrain.diagnosis.doctor import diagnose
from stabletrain.diagnosis.findings_text import describe
from stabletrain.diagnosis.history import History, total_norm
from stabletrain.diagnosis.observations import About, Observations, num_dims_by_layer
from stabletrain.signal.cadence import is_due
from stabletrain.signal.layer_names import clean_name
from stabletrain.signal.snapshot import Snapshot
from stabletrain.signal.through_time import gradient_through_time
from stabletrain.signal.watch import OF_STEP, Watch
from stabletrain.vocabulary import metric_names as names
from stabletrain.vocabulary.finding import Finding, verdict_of
from stabletrain.vocabulary.signals import CLIP, GRADIENT, SIGNALS

EVERY = 10  # steps between two looks at what is not the gradient; conf/watch/default.yaml
FIRST = 10  # and each of the first ones, where the initialisation shows


class Doctor:
    """Watches a model in a plain loop and says what is wrong with its training.

    Call `step` after `backward()` and before `optimizer.step()`. It observes only. What it keeps is bounded: of each
    measure at most 4,096 steps, of the loss and its like 12 bytes a step.

    Args:
        model: Any `torch.nn.Module`; shared weights, unused branches and frozen layers included.
        optimizer: The one that steps the model. With it the doctor sees how far each step goes, the learning rate,
            and what clipping between `step` and the optimizer's does.
        num_steps: Steps that the training is to take; without it nothing can be late.
        prior_loss: Loss of the best guess that does not look at the input: the labels' entropy, or their variance.

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
        self._model, self._optimizer = model, optimizer
        self._about = {"num_steps": num_steps, "prior_loss": prior_loss}
        self._num_dims = {clean_name(path): p.dim() for path, p in model.named_parameters()}
        self._history = History()
        self._step = 0
        self._pending: Snapshot | None = None
        self._added: set[str] = set()  # signals of the pending snapshot that were collected already
        self._loss: Tensor | float | None = None
        self._norm: float | None = None
        self._lr: float | None = None
        self._first_lr: float | None = None
        self._last_time = -EVERY
        self._num_looks = self._num_clipped = 0

    def step(self, loss: Tensor | float | None = None) -> None:
        """Look at all gradients as they are now, and from time to time at everything else.

        Args:
            loss: The loss of this step.
        """
        self._collect()
        self._pending = self._watch.step(histograms=False, step=self._step, others=_is_looked_at(self._step))
        self._added = set()
        self._loss = loss.detach() if isinstance(loss, Tensor) else loss
        self._note_lr()
        self._step += 1
        self._watch.expect(taps=_is_looked_at(self._step), histograms=False)

    def validate(self, **metrics: float) -> None:
        """Take metrics of a validation, such as `accuracy=0.9` or `loss=0.3`."""
        self._history.add_scalars(max(0, self._step - 1), {f"val/{name}": float(v) for name, v in metrics.items()})

    def follow_time(self, inputs: Any, loss_of_outputs: Callable[[Any], Tensor]) -> None:
        """Follow the gradient through time of recurrent layers on a few examples; most calls do nothing.

        Args:
            inputs: What the model is called with: a tensor, or a tuple of arguments. Eight examples are enough.
            loss_of_outputs: Maps the model's outputs for them to a scalar.
        """
        if self._step >= FIRST and self._step - self._last_time < EVERY:
            return
        self._last_time = self._step
        for found in gradient_through_time(self._model, inputs, loss_of_outputs):
            self._history.add_time(self._step, found.layer, found.norms)

    @property
    def observations(self) -> Observations:
        """All numbers seen so far, as the rules look at them."""
        self._collect()
        settings = {} if self._first_lr is None else {"optimizer.lr": self._first_lr}
        dims = num_dims_by_layer(self._watch.layers, self._num_dims)
        self._history.about = About(settings=settings, num_dims=dims, **self._about)  # pyright: ignore[reportArgumentType]
        return self._history.observations()

    @property
    def findings(self) -> list[Finding]:
        """What is wrong so far, the cause before what follows from it."""
        return diagnose(self.observations)

    @property
    def verdict(self) -> str:
        """`healthy`, or the kind of the worst finding."""
        return verdict_of(self.findings)

    def report(self) -> str:
        """Return the verdict and the findings as text."""
        if not self.observations.rms:
            return "verdict: none, no gradient was seen: call step() after backward()"
        return "\n".join(describe(self.findings))

    def detach(self) -> None:
        """Remove what is left of the hooks."""
        self._collect()
        self._watch.detach()

    def _collect(self) -> None:
        """Keep what was measured; the signals of the optimizer's step come in after the others."""
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
        self._num_looks += 1
        self._num_clipped += after < self._norm * (1 - 1e-6)  # the norm itself is known to float32's six digits
        scalars = {names.NORM_AFTER: after, names.CLIP_FRACTION: self._num_clipped / self._num_looks}
        self._history.add_scalars(snapshot.step, scalars)

    def _note_lr(self) -> None:
        lr = float(self._optimizer.param_groups[0].get("lr", math.nan)) if self._optimizer else math.nan
        if math.isfinite(lr) and lr != self._lr:
            self._lr = lr
            self._first_lr = lr if self._first_lr is None else self._first_lr
            self._history.add_scalars(self._step, {names.LR: lr})


def _is_looked_at(step: int) -> bool:
    return step < FIRST or is_due(step, EVERY)
