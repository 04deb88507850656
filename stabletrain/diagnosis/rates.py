"""Learning rates that work: from the measured size of the updates, and from what is usual for the optimizer."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from stabletrain.diagnosis.observations import Observations, Series, Table
from stabletrain.diagnosis.weight_tables import row_medians, update_ratios, weights
from stabletrain.vocabulary import metric_names as names
from stabletrain.vocabulary.signals import GRADIENT, UPDATE

ADAPTIVE = ("adam", "adamw", "rmsprop", "muon")  # their steps do not depend on the size of the gradient
USUAL_ADAPTIVE = 1e-3  # Kingma and Ba 2015; the default of torch.optim.Adam
SHORT, MOST_FOR_SHORT = 1000, 5.0  # steps, below which the rates of our benchmark's recipes are higher; factor
USUAL_SGD = 0.05  # conf/optimizer: 0.1 plain, 0.05 with momentum
FAR_FROM_USUAL = 30.0  # factor beyond which a rate alone explains updates that are too large or too small
TURNOVER = 5.0  # ‖ΔW‖/‖W‖ summed over a training: weights that learn are replaced a few times
TARGET = (1e-3, 2e-2)  # ‖ΔW‖/‖W‖ per step: 1e-3 is usual (Karpathy 2015), short trainings need more
LARGEST = 0.1  # ‖ΔW‖/‖W‖ above which steps are too large (`rules.rate`)
UNKNOWN_TARGET = 2e-3  # … where the number of steps is unknown
TRUSTED = 100.0  # factor: what the updates say is bounded around the usual rate; exploding gradients say nothing
LEAST_CHANGE = 3.0  # factor: a smaller change of the learning rate fixes nothing
TENFOLD = 10.0
MOMENTUM_GAIN = 3.0  # by which momentum 0.9 lengthens steps of random direction after the first: √((1 + β)/(1 − β))
TIMID = 0.1  # of the learning rate: steps of Adam, Lion and RMSprop are no smaller at first
EVEN = 0.02  # decades: updates of plain gradient descent are the gradient times one number in every layer


@dataclass(frozen=True)
class Rate:
    """The learning rate of a run, and what it does to the weights.

    Attributes:
        lr: The learning rate; None if unknown.
        is_adaptive: Whether the size of a step is independent of that of the gradient, as in Adam; None if unknown.
        first: ‖ΔW‖/‖W‖ of the first step per unit of the learning rate, median over the weights; None if not measured.
        typical: The same as the median over all steps.
        num_steps: The training budget; None if unknown.
    """

    lr: float | None = None
    is_adaptive: bool | None = None
    first: float | None = None
    typical: float | None = None
    num_steps: int | None = None

    @property
    def usual(self) -> float | None:
        """The usual rate for such an optimizer; None if the optimizer is unknown."""
        if self.is_adaptive is None:
            return None
        return usual_adaptive(self.num_steps) if self.is_adaptive else USUAL_SGD

    @property
    def distance(self) -> float:
        """Factor by which the rate is above the usual one, below 1 if it is lower; 1 if unknown."""
        return self.lr / self.usual if self.lr and self.usual else 1.0

    @property
    def is_above_target(self) -> bool | None:
        """Whether the first or the typical update is above its target size; None if they were not measured.

        Weights that a first step destroyed may have no gradient later.
        """
        if not self.lr or self.typical is None:
            return None
        return self.typical * self.lr > self._target or (self.first or 0.0) * self.lr > LARGEST

    def lower(self) -> float | None:
        """Return a lower rate that works, rounded to one digit; None if the rate is unknown."""
        if not self.lr:
            return None
        gain = 1.0 if self.is_adaptive else MOMENTUM_GAIN
        found = self._working(None if self.first is None else self.first * gain)
        return rounded(min(found or self.lr / TENFOLD, self.lr / LEAST_CHANGE))

    def higher(self) -> float | None:
        """Return a higher rate that works, rounded to one digit; None if the rate is unknown."""
        if not self.lr:
            return None
        return rounded(max(self._working(self.typical) or self.lr * TENFOLD, self.lr * LEAST_CHANGE))

    def higher_by(self, factor: float) -> float | None:
        """Return a rate that is higher by a factor, but no higher than steps can be; None if the rate is unknown."""
        if not self.lr:
            return None
        most = LARGEST / (self.typical * self.lr) if self.typical else TENFOLD
        return rounded(self.lr * max(min(factor, most), LEAST_CHANGE))

    @property
    def _target(self) -> float:
        """‖ΔW‖/‖W‖ of a step that is to be reached."""
        least, most = TARGET
        return min(max(TURNOVER / self.num_steps, least), most) if self.num_steps else UNKNOWN_TARGET

    def _working(self, ratio_per_lr: float | None) -> float | None:
        """Return the geometric mean of the usual rate and that at which the updates have their target size."""
        measured, usual = self._target / ratio_per_lr if ratio_per_lr else None, self.usual
        if measured is None or usual is None:
            return usual or measured
        return math.sqrt(usual * min(max(measured, usual / TRUSTED), usual * TRUSTED))


def usual_adaptive(num_steps: int | None) -> float:
    """Return the usual rate of Adam and its relatives: 1e-3, and up to 5e-3 for trainings of fewer than 1,000 steps."""
    shortness = SHORT / num_steps if num_steps else 1.0
    return USUAL_ADAPTIVE * min(max(shortness, 1.0), MOST_FOR_SHORT)


def rounded(lr: float) -> float:
    """Return a learning rate rounded to one digit."""
    return float(f"{lr:.0e}")


def rate_of(observations: Observations) -> Rate:
    """Return the learning rate of a run, and the size of its updates."""
    lr = _lr(observations)
    ratios = update_ratios(observations)
    per_lr = np.empty(0) if ratios is None or not lr else _per_lr(ratios, observations.scalars.get(names.LR), lr)
    known = per_lr[np.isfinite(per_lr) & (per_lr > 0)]
    return Rate(
        lr=lr,
        is_adaptive=_is_adaptive(observations, lr),
        first=float(known[0]) if known.size else None,
        typical=float(np.median(known)) if known.size else None,
        num_steps=observations.about.num_steps,
    )


def _lr(observations: Observations) -> float | None:
    """Return the configured learning rate, else the largest one before any sudden change."""
    lr, rates = observations.about.settings.get("optimizer.lr"), observations.scalars.get(names.LR)
    if observations.about.choices and isinstance(lr, int | float) and lr > 0:
        return float(lr)
    if rates is not None and len(rates.steps) and np.nanmax(rates.values) > 0:
        return float(np.nanmax(rates.values))
    return float(lr) if isinstance(lr, int | float) and lr > 0 else None


def _lr_at(observations: Observations, step: int, lr: float) -> float:
    rates = observations.scalars.get(names.LR)
    known = rates.until(step).values if rates is not None else np.empty(0)
    return float(known[-1]) if len(known) else lr


def _per_lr(ratios: Table, rates: Series | None, lr: float) -> np.ndarray:
    """Return the median ‖ΔW‖/‖W‖ of each step, divided by the learning rate of that step."""
    at_step = np.full(len(ratios.steps), lr)
    if rates is not None and len(rates.steps):
        places = np.searchsorted(rates.steps, ratios.steps, side="right") - 1
        at_step = np.where(places >= 0, rates.values[np.maximum(places, 0)], lr)
    with np.errstate(divide="ignore", invalid="ignore"):
        return row_medians(ratios) / at_step


def _is_adaptive(observations: Observations, lr: float | None) -> bool | None:
    """Return whether steps are independent of the size of the gradient: by name, else by the first update.

    The first update of gradient descent is the gradient times one number, in every layer; that of Adam is the learning
    rate, whatever the gradient. Of one that is far below both, as Adadelta's, nobody knows a usual rate.
    """
    name = observations.about.choices.get("optimizer")
    if name:
        return name in ADAPTIVE
    update, gradient = weights(observations, UPDATE), weights(observations, GRADIENT)
    if update is None or gradient is None or not len(update.steps) or update.steps[0] not in gradient.steps:
        return None
    row = int(np.searchsorted(gradient.steps, update.steps[0]))
    layers = [layer for layer in update.layers if layer in set(gradient.layers)]
    sizes, slopes = update.of(tuple(layers)).values[0], gradient.of(tuple(layers)).values[row]
    known = (sizes > 0) & (slopes > 0)
    if not known.any():
        return None
    factors = np.log10(sizes[known] / slopes[known])
    if known.sum() > 1 and np.ptp(factors) < EVEN:
        return False
    if known.sum() > 1 and np.ptp(np.log10(slopes[known])) > EVEN:
        return None if lr and np.median(sizes[known]) < TIMID * _lr_at(observations, int(update.steps[0]), lr) else True
    if known.sum() == 1 and lr:  # plain gradient descent multiplies the gradient by the rate
        return bool(abs(factors[0] - np.log10(lr)) > EVEN)
    return bool(lr and np.median(np.abs(np.log10(sizes[known] / lr))) < 0.1)
