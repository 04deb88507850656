"""Signals of the parameters: the weight, the gradient after clipping, the update and the optimizer's second moment."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.optim import Optimizer

from stabletrain.signal.sources.source import Source, Step, measure
from stabletrain.vocabulary.signals import CLIP, MOMENT, UPDATE, WEIGHT

SECOND_MOMENTS = ("exp_avg_sq", "square_avg", "sum", "v")  # Adam and AdamW, RMSprop, Adagrad, others


class Weight(Source):
    """Measures the weights before the step; without histograms if only `update` requires their norm."""

    signals = (WEIGHT,)
    needed_by = (UPDATE,)

    def before_step(self, step: Step) -> None:
        """Measure the weights."""
        weights = [p.detach() for p in step.parameters]
        step.snapshot.signals[WEIGHT] = measure(step.names, weights, step.histograms and self.is_requested)


class Clip(Source):
    """Measures the gradient that the optimizer uses, after clipping."""

    signals = (CLIP,)
    needs_optimizer = True

    def at_step(self, step: Step) -> None:
        """Measure the gradients, once."""
        if CLIP in step.snapshot.signals:
            return
        pairs = zip(step.names, step.parameters, strict=True)
        gradients = {name: p.grad for name, p in pairs if p.grad is not None}
        step.snapshot.signals[CLIP] = measure(list(gradients), list(gradients.values()), step.histograms)

    def after_step(self, step: Step, optimizer: Optimizer) -> None:
        """Measure the gradients here if the backward pass was part of the optimizer's step, as in Lightning."""
        self.at_step(step)


class Update(Source):
    """Measures ΔW, what the step adds to the weights."""

    signals = (UPDATE,)
    needs_optimizer = True

    def __init__(self, model: nn.Module, signals: Sequence[str]) -> None:
        super().__init__(model, signals)
        self._weights: list[Tensor] = []

    def before_step(self, step: Step) -> None:
        """Copy the weights."""
        self._weights = [p.detach().clone() for p in step.parameters]

    def after_step(self, step: Step, optimizer: Optimizer) -> None:
        """Measure the difference."""
        changes = [p.detach() - w for p, w in zip(step.parameters, self._weights, strict=True)]
        step.snapshot.signals[UPDATE] = measure(step.names, changes, step.histograms)

    def forget(self) -> None:
        """Release the copies."""
        self._weights = []


class Moment(Source):
    """Measures the optimizer's second moment, for parameters that have one."""

    signals = (MOMENT,)
    needs_optimizer = True

    def after_step(self, step: Step, optimizer: Optimizer) -> None:
        """Measure the second moments."""
        pairs = zip(step.names, step.parameters, strict=True)
        moments = {name: m for name, p in pairs if (m := _second_moment(optimizer, p)) is not None}
        step.snapshot.signals[MOMENT] = measure(list(moments), list(moments.values()), step.histograms)


def _second_moment(optimizer: Optimizer, parameter: nn.Parameter) -> Tensor | None:
    state = optimizer.state.get(parameter, {})
    return next((state[key] for key in SECOND_MOMENTS if isinstance(state.get(key), Tensor)), None)
