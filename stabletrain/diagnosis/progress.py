"""How training progresses: what has been learned so far, compared with what should be learned by now.

An unusual structure is harmless as long as the network learns: published rules that alarm on structure alone alarm on
many healthy runs (docs/doctor_benchmark.md). The structural rules therefore consult the progress first.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass

import numpy as np

from stabletrain.diagnosis.observations import Observations, Series
from stabletrain.vocabulary import metric_names as names
from stabletrain.vocabulary.kinds import TARGET_SCALE
from stabletrain.vocabulary.signals import ACTIVATION

WINDOW_SHARE = 0.1  # of the losses so far: the current level is their median
MIN_WINDOW = 5
UNKNOWN_BUDGET = 200  # with an unknown number of steps, half of the budget counts as done after 200
SUMMED = 10.0  # a loss this many times what the outputs explain is a sum over the batch, or weighted
WEIGHED = 1 / 3  # … as is a first loss this far below the prior loss
EARLY_FALL = 0.05  # of the baseline: what a network that learns has gained after a tenth of its steps
LATE_FALL = 0.35  # … and at the end: language models, whose data is mostly unpredictable, end at 0.4
LATE_FALL_UNHEALTHY = 0.8  # … where a measurement is clearly unusual: healthy networks with such end above 0.82
MANY = 2**20  # numbers in all windows together; with more, a sorted window is moved along
WORSE = 0.15  # of the baseline: a relapse is this much above the best level so far
OVERCOME = 0.5  # of the baseline: a network that once learned so much has overcome what was wrong before
COLLAPSE = 5.0  # … of the typical size of a loss whose level shows nothing


@dataclass(frozen=True)
class Progress:
    """The loss, summarized by robust statistics.

    Attributes:
        share: Fraction of the training budget that is done; estimated if the budget is unknown.
        is_planned: Whether the number of steps is known.
        start: The first loss, before the first step.
        now: Median of the last tenth.
        best: The lowest such median so far.
        best_step: The last step of that window.
        baseline: The prior loss; where it is unknown or on another scale, the first loss; the typical size of a loss
            whose level shows nothing, or that begins at zero.
        is_falling: Whether the last tenth is below the tenth before it by more than the noise.
        steepness: Decrease from the tenth before it to the last tenth, relative to the last tenth.
        uncertainty: Standard error of the lowest median.
        is_measure: Whether the level of the loss shows what was learned. It does not if the loss may be negative, as
            that of a policy gradient, or in a game such as a GAN. Only a collapse is then held against the training.
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
    is_measure: bool = True
    best_step: int = 0

    @property
    def fall(self) -> float:
        """Relative decrease of the loss below the baseline: 0 at chance level, 1 for no loss, negative if worse."""
        if not self.is_measure:
            return 1.0
        return (self.baseline - self.now) / max(abs(self.baseline), 1e-30)

    @property
    def is_relapse(self) -> bool:
        """Whether the loss is well above a level that it had reached.

        A loss whose level shows nothing must be above its start too: that of a policy gradient returns to zero from
        below once every action is certain.
        """
        if not self.is_measure:
            return self.now - max(self.best, self.start) > COLLAPSE * self.baseline
        return self.now - self.best > WORSE * abs(self.baseline)

    @property
    def best_fall(self) -> float:
        """Relative decrease below the baseline when the loss was lowest, less two standard errors."""
        if not self.is_measure:
            return 1.0
        return (self.baseline - self.best - 2 * self.uncertainty) / max(abs(self.baseline), 1e-30)

    def overcame(self, step: int) -> bool:
        """Return whether most was learned after `step`, so that what ended there is not what spoiled the training."""
        return self.is_measure and self.best_step > step and self.best_fall > OVERCOME

    @property
    def suffers(self) -> bool:
        """Whether the network has learned less than any healthy one would have by now, or lost what it had learned."""
        return self.fall < self._required(LATE_FALL) or self.is_relapse

    @property
    def lags(self) -> bool:
        """Whether it suffers, or has learned less than healthy networks with unusual measurements."""
        return self.suffers or self.fall < self._required(LATE_FALL_UNHEALTHY)

    def _required(self, at_the_end: float) -> float:
        """Return what should be learned by now, which rises in proportion to the steps done."""
        if not self.is_planned:
            return EARLY_FALL
        return EARLY_FALL + (at_the_end - EARLY_FALL) * min(max(self.share - 0.1, 0.0) / 0.9, 1.0)


def progress_of(observations: Observations) -> Progress | None:
    """Return the progress of the training; None without a loss."""
    losses = observations.scalars.get(names.TRAIN_LOSS)
    if losses is None or not len(losses.steps):
        return None
    values = losses.values
    width = max(min(MIN_WINDOW, len(values)), round(WINDOW_SHARE * len(values)))
    levels = _LATEST.medians(values, width)
    start = float(values[0])
    now, earlier = float(levels[-1]), float(levels[max(0, len(levels) - 1 - width)])
    is_measure = not observations.about.is_game and float(values.min()) >= 0
    baseline = _baseline(observations, start, values) if is_measure else _typical_size(values)
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
        uncertainty=1.25 * spread / width**0.5,  # standard error of the median of a normal distribution
        is_measure=is_measure,
        best_step=int(losses.steps[lowest + width - 1]),
    )


def share_done(observations: Observations, step: int) -> float:
    """Return the fraction of the training budget done after `step`; n/(n + 200) if the budget is unknown."""
    done = step + 1
    num_steps = observations.about.num_steps
    return min(1.0, done / num_steps) if num_steps else done / (done + UNKNOWN_BUDGET)


def running_medians(values: np.ndarray, width: int) -> np.ndarray:
    """Return the median of each `width` consecutive values, (len - width + 1,)."""
    if len(values) * width <= MANY or not np.isfinite(values).all():
        return np.median(np.lib.stride_tricks.sliding_window_view(values, width), axis=1)
    # NumPy copies all windows: 7 GB with 100,000 losses and a tenth of them in a window.
    numbers = values.tolist()
    ordered = sorted(numbers[: width - 1])
    low, high = (width - 1) // 2, width // 2
    levels = np.empty(len(numbers) - width + 1)
    for i in range(len(levels)):
        insort(ordered, numbers[i + width - 1])
        levels[i] = (ordered[low] + ordered[high]) / 2
        del ordered[bisect_left(ordered, numbers[i])]
    return levels


class _Latest:
    """Remembers the medians of the latest losses, for which several rules ask."""

    def __init__(self) -> None:
        self._values, self._width, self._levels = np.empty(0), 0, np.empty(0)

    def medians(self, values: np.ndarray, width: int) -> np.ndarray:
        if values is not self._values or width != self._width:
            self._values, self._width, self._levels = values, width, running_medians(values, width)
        return self._levels


_LATEST = _Latest()


def last_step(observations: Observations) -> int:
    """Return the last step with any measurement."""
    series: list[Series] = [*observations.scalars.values()]
    steps = [int(x.steps[-1]) for x in [*series, *observations.rms.values()] if len(x.steps)]
    return max(steps, default=0)


def _typical_size(values: np.ndarray) -> float:
    """Return the median size of the first half of the losses."""
    return max(float(np.median(np.abs(values[: len(values) // 2 + 1]))), 1e-30)


def _baseline(observations: Observations, start: float, values: np.ndarray) -> float:
    prior = observations.about.prior_loss
    start = start or max(float(values.mean()), 1e-30)  # nothing is a share of a first loss of zero
    if prior is None or prior <= 0:
        return start
    return start if is_scaled(observations, start, prior) else prior


def is_scaled(observations: Observations, start: float, prior: float) -> bool:
    """Return whether the loss is on another scale than its prior: a sum instead of a mean, or weighted.

    Before the first step, cross entropy is at most prior + 2·max|output|, and squared error prior + (mean − output)²: a
    loss far above that, or far below the prior before anything was learned, does not follow from these outputs alone.
    Targets that are known to be far from zero explain a high first loss.
    A prior loss that was inferred from the loss itself is on its scale: a lower first loss then means that training
    began with a network that had been trained before.
    """
    if observations.about.prior_is_measured:
        return False
    size = max(output_size(observations) or 0.0, _far_targets(observations))
    return start > SUMMED * (prior + 3 * size + size**2) or start < WEIGHED * prior


def _far_targets(observations: Observations) -> float:
    """Return the distance of the targets from zero, where they were seen to be off scale."""
    means = [n.evidence.get("mean") for n in observations.notices if n.kind == TARGET_SCALE.name]
    return max((abs(mean) for mean in means if mean is not None), default=0.0)


def output_size(observations: Observations) -> float | None:
    """Return the root mean square of the network's outputs before the first step, if it was measured."""
    outputs = observations.rms.get(ACTIVATION)
    if outputs is None or not len(outputs.steps) or np.isnan(outputs.values[0, -1]):
        return None
    return float(outputs.values[0, -1])
