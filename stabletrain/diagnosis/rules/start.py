"""Initializations that leave the layers at different scales, or the outputs far too large."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stabletrain.diagnosis import remedies
from stabletrain.diagnosis.circumstances import is_good_start
from stabletrain.diagnosis.observations import About, Observations, Table
from stabletrain.diagnosis.progress import (
    MIN_WINDOW,
    OVERCOME,
    Progress,
    is_scaled,
    last_step,
    output_size,
    progress_of,
    running_medians,
    share_done,
)
from stabletrain.diagnosis.rates import FAR_FROM_USUAL, rate_of
from stabletrain.diagnosis.rules.rate import find_lr_too_low
from stabletrain.diagnosis.weight_tables import layers_with_parameters, weights
from stabletrain.diagnosis.windows import FLOOR, decades
from stabletrain.vocabulary import metric_names as names
from stabletrain.vocabulary.finding import GROWS, Finding
from stabletrain.vocabulary.kinds import BAD_INIT
from stabletrain.vocabulary.signals import ACTIVATION, DELTA, EQUAL, GRADIENT, WEIGHT

FIRST_STEPS = 10  # in which learning has not changed the initialization much
TOO_LARGE_OUTPUT = 3.0  # rms: larger logits and predictions are far from any target
SPREAD = 1.0  # decades from the first hidden layer to the last: healthy initializations stay within half of that
PLAIN_SPREAD = 2.0  # an embedding of a tenth of the scale that a norm gives it is harmless
CRITICAL_SPREAD = 3.0
TOO_LARGE = 3.0  # first loss over the prior loss: with outputs near zero, cross entropy begins near the prior loss
COPIES = 0.9  # share of a layer's units
MIN_CHANGED = 2  # hidden layers: a single small one is a branch or a head, whose size is a choice (PPO's action head)
LARGE_GAIN = 4.0  # times √fan_in: He et al. 2015 take 1.41, torch 0.58; such weights hide how far each step moves them
RELAPSED = 2.0  # times the lowest loss
LOST_IN_ROUNDING = 2.0**24  # rms: float32 has no fractions there, so that targets of ordinary size are lost
HUGE = 30.0  # rms: tanh and sigmoid saturate long before, and its square dominates every sum
LATE = 0.8  # of the training budget, as in `no_progress`
AT_CHANCE = 0.05  # of the prior loss: outputs that were too large no longer are, and yet nothing is learned
PATIENCE = 0.03  # of the training budget
PATIENCE_OUTPUTS = 0.08  # … where only the outputs are too large: most networks reduce them in a few steps
LATE_DESCENT = 0.15  # of the steps so far: a network that spent so many above chance level lost them to its outputs

LARGE_WEIGHTS = "The weights that are trained are too large for their number of inputs: begin with smaller ones."


@dataclass(frozen=True)
class _Start:
    """What is unusual about an initialization.

    Attributes:
        spread: Largest change of the activations over the hidden layers, in decades.
        excess: First loss over the prior loss, if large outputs explain it; else 1.
        size: Largest root mean square of an activation.
        alike: Layers whose units are copies of each other, if this is the case for most layers.
        layer: The layer where it begins.
        is_zero: Whether all of several weights began at zero.
        is_saddle: Whether all weights began at zero and have had no gradient since.
        is_slow: Whether the first loss was so large that it took long to come down to chance level.
        is_game: Whether the network is trained against another one.
    """

    spread: float
    excess: float
    size: float
    alike: tuple[str, ...]
    layer: str | None
    is_zero: bool = False
    is_saddle: bool = False
    is_slow: bool = False
    is_game: bool = False

    @property
    def is_unusual(self) -> bool:
        return self.is_structure or self.excess > TOO_LARGE or self.size > HUGE

    @property
    def is_structure(self) -> bool:
        """Whether the weights themselves are at fault."""
        return abs(self.spread) > SPREAD or bool(self.alike) or self.is_zero or self.is_saddle

    @property
    def is_plain(self) -> bool:
        """Whether no healthy initialization is like this."""
        is_alike = bool(self.alike) or self.is_zero or self.is_saddle
        return abs(self.spread) > PLAIN_SPREAD or self.size > 10 * HUGE or is_alike or self.is_slow

    @property
    def is_critical(self) -> bool:
        is_far = abs(self.spread) > CRITICAL_SPREAD or self.excess > TOO_LARGE**2 or self.size > 10 * HUGE
        return is_far or self.is_zero or self.is_saddle


@BAD_INIT.rule
def find_bad_init(observations: Observations) -> list[Finding]:
    """Find initial activations that grow or shrink tenfold over depth or are huge, equal units, and a large first loss.

    d = max over the hidden layers of |log10 rms(layer) - log10 rms(first)| > 1: a good initialization preserves the
    variance (Glorot and Bengio 2010, section 4.2). Branches initialized to zero are healthy and left out, since their
    skip passes the signal on, and so are changes that a later layer undoes: those of a branch, or before a norm. Layers
    without parameters have no initialization. Units that are copies of each other, in more than half of the weights,
    receive equal gradients and stay copies (Goodfellow et al. 2016, section 8.4), as do weights that are all zero. If
    their gradients are zero too, nothing will ever move them, whatever the loss shows. Weights that are too large for
    their number of inputs, median rms(W) √fan_in > 4, are the cause of updates that look too small beside them.
    """
    progress = progress_of(observations)
    start = _describe(observations, progress)
    gain = observations.about.weight_gain or 0.0
    if gain > LARGE_GAIN and progress is not None and _hides_progress(observations, progress):
        return [_large_weights(observations, gain)]
    if not start.is_unusual or (is_good_start(observations) and not start.is_saddle):
        return []
    step = last_step(observations)
    is_large_alone = not start.is_structure and start.size <= HUGE
    is_lost_in_rounding = start.spread > SPREAD and start.size > LOST_IN_ROUNDING
    suffers = (
        progress is None
        or is_lost_in_rounding
        or (
            _is_lost(start, progress)
            and not (progress.is_relapse and progress.best_fall > OVERCOME)
            and not (progress.is_falling and not start.is_structure and not _is_too_late(start, progress))
            and not (is_large_alone and abs(progress.fall) < AT_CHANCE)
            and share_done(observations, step) >= (PATIENCE if start.is_structure else PATIENCE_OUTPUTS)
        )
    )
    return [
        Finding(
            kind=BAD_INIT.name,
            severity="info" if not suffers else "critical" if start.is_critical else "warning",
            layer=start.layer,
            first_step=0,
            last_step=min(step, FIRST_STEPS - 1),
            evidence={
                "log10_activation_change": round(start.spread, 2),
                "threshold": SPREAD,
                "first_loss_over_guess": round(start.excess, 2),
                "largest_activation": float(f"{start.size:.3g}"),
                "layers_of_equal_units": len(start.alike),
                "is_zero": start.is_zero,
                "is_saddle": start.is_saddle,
                GROWS: start.spread > SPREAD or start.excess > TOO_LARGE or start.size > HUGE or bool(start.alike),
            },
        )
    ]


def _hides_progress(observations: Observations, progress: Progress) -> bool:
    """Return whether too large weights are what slows the training, or makes its first loss no measure of the last.

    ‖ΔW‖/‖W‖ is small beside them at any usual learning rate, and the loss falls from where they put it.
    """
    if any(f.alarms for f in find_lr_too_low(observations)):
        return rate_of(observations).distance >= 1 / FAR_FROM_USUAL
    is_known = observations.about.prior_loss is not None or not progress.is_measure
    return not is_known and progress.share >= 1 and progress.now > RELAPSED * progress.best > 0


def _large_weights(observations: Observations, gain: float) -> Finding:
    step = last_step(observations)
    evidence = {"weight_gain": float(f"{gain:.3g}"), "threshold": LARGE_GAIN, GROWS: True}
    return Finding(BAD_INIT.name, "warning", None, 0, min(step, FIRST_STEPS - 1), evidence, LARGE_WEIGHTS)


def _is_too_late(start: _Start, progress: Progress) -> bool:
    """Return whether the training budget is nearly over, and the loss came down to chance level late or not at all."""
    is_nearly_over = progress.is_planned and progress.share >= LATE and progress.is_measure
    return is_nearly_over and (progress.fall < 0 or start.is_slow)


def _describe(observations: Observations, progress: Progress | None) -> _Start:
    table = _initialized(observations)
    spread, layer = _spread(table, _has_gradient(observations, table)) if table is not None else (0.0, None)
    alike = _alike(observations)
    if abs(spread) <= SPREAD:
        layer = alike[0] if alike else _first_large(table)
    num_zero = _num_zero(observations)
    is_saddle = num_zero > 0 and not _has_any_gradient(observations)
    excess = _excess(observations, progress)
    is_slow = excess > TOO_LARGE and progress is not None and _descends_late(observations, progress)
    size, is_game = _largest(table), observations.about.is_game
    return _Start(spread, excess, size, alike, layer, num_zero > 1, is_saddle, is_slow, is_game)


def _descends_late(observations: Observations, progress: Progress) -> bool:
    """Return whether the loss came below the loss at chance level after a considerable part of the steps so far."""
    losses = observations.scalars[names.TRAIN_LOSS].values
    width = min(MIN_WINDOW, len(losses))
    below = np.flatnonzero(running_medians(losses, width) < progress.baseline)
    return progress.is_planned and bool(below.size) and below[0] > LATE_DESCENT * len(losses)


def _alike(observations: Observations) -> tuple[str, ...]:
    """Return the weights whose units are nonzero copies of each other, if these are more than half of all weights."""
    table, all_weights = observations.units.get(EQUAL), weights(observations, GRADIENT)
    if table is None or all_weights is None or not len(table.steps) or table.steps[0] >= FIRST_STEPS:
        return ()
    sizes = observations.rms.get(WEIGHT)
    pairs = zip(sizes.layers, sizes.values[0], strict=True) if sizes is not None and len(sizes.steps) else ()
    zero = {layer for layer, size in pairs if size == 0}
    copies = {layer for layer, share in zip(table.layers, table.values[0], strict=True) if share > COPIES} - zero
    found = tuple(layer for layer in all_weights.layers if layer in copies)
    return found if len(found) > len(all_weights.layers) / 2 else ()


def _is_lost(start: _Start, progress: Progress) -> bool:
    """Return whether the training learns too little for what is unusual, or can learn nothing from such a start.

    Where the level of the loss shows nothing, as in a GAN, a critical start is enough. So are equal units in a game: a
    network of one distinct unit a layer cannot follow its opponent, whereas a policy may need no more.
    """
    if start.is_saddle or (start.is_critical and not progress.is_measure) or (start.is_game and start.alike):
        return True
    return progress.lags if start.is_plain else progress.suffers


def _num_zero(observations: Observations) -> int:
    """Return the number of weights that are trained, if all of them began at zero; else 0."""
    sizes, slopes = weights(observations, WEIGHT), weights(observations, GRADIENT)
    if sizes is None or slopes is None or not len(sizes.steps) or sizes.steps[0] >= FIRST_STEPS:
        return 0
    learned = tuple(layer for layer in sizes.layers if layer in set(slopes.layers))
    return 0 if np.nan_to_num(sizes.of(learned).values[0], nan=1.0).any() else len(learned)


def _has_any_gradient(observations: Observations) -> bool:
    slopes = weights(observations, GRADIENT)
    return slopes is not None and bool(np.nan_to_num(slopes.values).any())


def _excess(observations: Observations, progress: Progress | None) -> float:
    prior = observations.about.prior_loss
    if progress is None or not prior or is_scaled(observations, progress.start, prior):
        return 1.0
    size = output_size(observations)
    return progress.start / prior if size is None or size > TOO_LARGE_OUTPUT else 1.0


def _largest(table: Table | None) -> float:
    """Return the largest root mean square of a layer's outputs before the first step; 0 if not measured."""
    if table is None or not len(table.steps) or table.steps[0] >= FIRST_STEPS or np.isnan(table.values[0]).all():
        return 0.0
    return float(np.nanmax(table.values[0]))


def _first_large(table: Table | None) -> str | None:
    """Return the first layer whose outputs are too large."""
    if table is None or not len(table.steps):
        return None
    return next((x for x, size in zip(table.layers, table.values[0], strict=True) if size > TOO_LARGE_OUTPUT), None)


def _spread(table: Table, has_gradient: bool) -> tuple[float, str | None]:
    """Return the largest change over the hidden layers, in decades, and the layer where most of it happens."""
    if not len(table.steps) or table.steps[0] >= FIRST_STEPS or len(table.layers) < 2:
        return 0.0, None
    typical = table.values[0, :-1]  # before the first step: later changes may be due to the learning rate
    if not np.nan_to_num(typical).any():
        return FLOOR, table.layers[0]  # no signal passes at all
    if len(typical) < 2:
        return 0.0, None
    is_end = bool(typical[-1] == 0) and not has_gradient
    layers = [layer for layer, value in zip(table.layers, typical, strict=False) if value > 0 or is_end]
    logs = decades(np.array([value for value in typical if value > 0 or is_end]))
    if len(logs) < 2 or np.isnan(logs).any():
        return 0.0, None
    changes = _lasting_changes(logs) if not is_end else logs - logs[0]
    if np.count_nonzero(np.abs(changes) > SPREAD) < MIN_CHANGED and not is_end:
        return 0.0, None
    place = int(np.argmax(np.abs(changes)))
    jumps = np.sign(changes[place]) * np.diff(logs)
    largest = int(np.argmax(jumps)) + 1
    is_sudden = jumps[largest - 1] > max(0.5, 0.6 * abs(changes[place]))
    return float(changes[place]), layers[largest if is_sudden else 0]


def _lasting_changes(logs: np.ndarray) -> np.ndarray:
    """Return by how many decades each layer and all after it are below the first layer, or above it and too large."""
    highest_after = np.maximum.accumulate(logs[::-1])[::-1]
    lowest_after = np.minimum.accumulate(logs[::-1])[::-1]
    grows = (lowest_after > logs[0]) & (lowest_after > np.log10(TOO_LARGE_OUTPUT))
    return np.where(grows, lowest_after, np.minimum(highest_after, logs[0])) - logs[0]


def _initialized(observations: Observations) -> Table | None:
    """Return the outputs of the layers that have parameters; of all layers if the parameters are unknown."""
    table = observations.rms.get(ACTIVATION)
    known = layers_with_parameters(observations)
    if table is None or not known:
        return table
    kept = tuple(layer for layer in table.layers if layer.partition(".")[2] in known)
    return table.of(kept) if kept else table


def _has_gradient(observations: Observations, outputs: Table) -> bool:
    """Return whether a gradient reaches a hidden layer on the first step that is not zero itself.

    If so, zeros are bypassed by skips. In low-rank adapters the second matrix begins at zero, beside frozen weights.
    """
    table = observations.rms.get(DELTA)
    if table is None or not len(table.steps) or not len(outputs.steps):
        return False
    passing = {x for x, size in zip(outputs.layers[:-1], outputs.values[0, :-1], strict=True) if size > 0}
    return any(x in passing and slope > 0 for x, slope in zip(table.layers, table.values[0], strict=True))


@BAD_INIT.remedy
def remedy_bad_init(finding: Finding, about: About) -> list[remedies.Remedy]:
    """Propose the initialization of the activation, a data-dependent one, or a norm."""
    return [*remedies.initialization(about), remedies.LSUV, *remedies.norm(about)]
