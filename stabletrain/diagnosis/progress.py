"""How the training goes: what has been learned so far, beside what could be expected by now.

A structure that looks ill harms nobody as long as the network learns: published rules that alarm on structure alone
alarm on many healthy runs (docs/doctor_benchmark.md). So the structural rules ask here first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stabletrain.diagnosis.observations import Observations, Series
from stabletrain.vocabulary import metric_names as names
from stabletrain.vocabulary.signals import ACTIVATION

WINDOW_SHARE = 0.1  # of the losses seen so far: what "now" means
MIN_WINDOW = 5
UNKNOWN_BUDGET = 200  # without a plan: a share of one half after 200 steps, as a pipeline's half-life
SUMMED = 10.0  # a loss this many times what its outputs explain is a sum over the batch, or weighted
WEIGHED = 1 / 3  # … as is one this far below that of a guess, before anything was learned
EARLY_FALL = 0.05  # of the baseline: what a network that learns has gained within a tenth of its steps
LATE_FALL = 0.35  # … and at its end: text, most of which cannot be foreseen, ends at 0.4
LATE_FALL_ILL = 0.8  # … where something is plainly ill: healthy networks that merely look so end above 0.82
WORSE = 0.15  # of the baseline: so much above the best level before is a relapse


@dataclass(frozen=True)
class Progress:
    """The loss in a few robust numbers.

    Attributes:
        share: Of the planned steps that are done; if none are planned, a guess that rises with the steps.
        is_planned: Whether the number of steps is known.
        start: The first loss, of a network that has not moved yet.
        now: Median of the last tenth.
        best: The lowest such median so far.
        baseline: Loss of a guess that does not look at the input; of an unknown one the loss at the start.
        is_falling: Whether the last tenth lies below the tenth before it by more than the noise.
        steepness: By what share of itself the loss of the last tenth lies below that of the tenth before it.
        uncertainty: Standard error of the lowest median.
    """

    share: float
    is_planned: bool
    start: float
    now: float
    best: float
    baseline: float
    is_falling: bool
    steepness: float
    uncertainty: float

    @property
    def fall(self) -> float:
        """Share of the baseline that was learned away: 0 for guessing, 1 for no loss at all, below 0 for worse."""
        return (self.baseline - self.now) / max(abs(self.baseline), 1e-30)

    @property
    def is_relapse(self) -> bool:
        """Whether the loss stands well above a level that it had reached."""
        return self.now - self.best > WORSE * abs(self.baseline)

    @property
    def best_fall(self) -> float:
        """Share of the baseline that was learned away when the loss was lowest, less what chance may have done."""
        return (self.baseline - self.best - 2 * self.uncertainty) / max(abs(self.baseline), 1e-30)

    @property
    def suffers(self) -> bool:
        """Whether the network has learned less than any should have by now, or lost what it had learned."""
        return self.fall < self._required(LATE_FALL) or self.is_relapse

    @property
    def lags(self) -> bool:
        """Whether it suffers, or has learned less than networks do that look ill and are not."""
        return self.suffers or self.fall < self._required(LATE_FALL_ILL)

    def _required(self, at_the_end: float) -> float:
        """Return what should be learned by now, rising in proportion to the steps that are done."""
        if not self.is_planned:
            return EARLY_FALL
        return EARLY_FALL + (at_the_end - EARLY_FALL) * min(max(self.share - 0.1, 0.0) / 0.9, 1.0)


def progress_of(observations: Observations) -> Progress | None:
    """Return how the training goes; None without a loss."""
    losses = observations.scalars.get(names.TRAIN_LOSS)
    if losses is None or not len(losses.steps):
        return None
    values = losses.values
    width = max(min(MIN_WINDOW, len(values)), round(WINDOW_SHARE * len(values)))
    levels = running_medians(values, width)
    start = float(values[0])
    now, earlier = float(levels[-1]), float(levels[max(0, len(levels) - 1 - width)])
    baseline = _baseline(observations, start)
    lowest = int(np.argmin(levels))
    spread = 1.4826 * float(np.median(np.abs(values[lowest : lowest + width] - levels[lowest])))
    noise = 1.4826 * float(np.median(np.abs(values[width - 1 :] - levels)))
    return Progress(
        share=share_done(observations, int(losses.steps[-1])),
        is_planned=bool(observations.about.num_steps),
        start=start,
        now=now,
        best=float(levels[lowest]),
        baseline=baseline,
        is_falling=earlier - now > max(2 * noise / width**0.5, 0.01 * abs(baseline)),
        steepness=(earlier - now) / max(abs(now), 1e-30),
        uncertainty=1.25 * spread / width**0.5,  # of a median of normal numbers
    )


def share_done(observations: Observations, step: int) -> float:
    """Return the share of the planned steps that is done with `step`; n/(n + 200) if nothing is planned."""
    done = step + 1
    num_steps = observations.about.num_steps
    return min(1.0, done / num_steps) if num_steps else done / (done + UNKNOWN_BUDGET)


def running_medians(values: np.ndarray, width: int) -> np.ndarray:
    """Return the median of each `width` values in a row, (len - width + 1,)."""
    return np.median(np.lib.stride_tricks.sliding_window_view(values, width), axis=1)


def last_step(observations: Observations) -> int:
    """Return the last step of which anything is known."""
    series: list[Series] = [*observations.scalars.values()]
    steps = [int(x.steps[-1]) for x in [*series, *observations.rms.values()] if len(x.steps)]
    return max(steps, default=0)


def _baseline(observations: Observations, start: float) -> float:
    prior = observations.about.prior_loss
    if prior is None or prior <= 0:
        return start
    return start if is_scaled(observations, start, prior) else prior


def is_scaled(observations: Observations, start: float, prior: float) -> bool:
    """Whether the loss has another scale than its prior: a sum instead of a mean, or a weight before it.

    At the start cross entropy is at most prior + 2·max|output|, and squared error prior + (mean − output)²: a loss far
    beyond that, or far below the prior while nothing is learned, is not made of these outputs alone.
    """
    size = output_size(observations) or 0.0
    return start > SUMMED * (prior + 3 * size + size**2) or start < WEIGHED * prior


def output_size(observations: Observations) -> float | None:
    """Return the root mean square of the network's outputs before the first step, if it was measured."""
    outputs = observations.rms.get(ACTIVATION)
    if outputs is None or not len(outputs.steps) or np.isnan(outputs.values[0, -1]):
        return None
    return float(outputs.values[0, -1])
