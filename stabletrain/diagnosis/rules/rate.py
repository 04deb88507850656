"""Learning rates that are too high for the weights, or too low to move them."""

from __future__ import annotations

import numpy as np

from stabletrain.diagnosis import remedies
from stabletrain.diagnosis.observations import About, Observations, Series, Table
from stabletrain.diagnosis.progress import LATE_FALL_UNHEALTHY, Progress, last_step, progress_of, share_done
from stabletrain.diagnosis.rates import FAR_FROM_USUAL, rate_of
from stabletrain.diagnosis.weight_tables import row_medians, update_ratios
from stabletrain.vocabulary import metric_names as names
from stabletrain.vocabulary.finding import SUFFICES, Finding
from stabletrain.vocabulary.kinds import LR_TOO_HIGH, LR_TOO_LOW

TOO_FAR = 0.1  # ‖ΔW‖/‖W‖, median over the weights: a hundred times the usual 1e-3 (Karpathy 2015)
FAR_TOO_FAR = 0.3
TORN = 1.0  # a step as large as the weight replaces it
ERRATIC, ERRATIC_SHARE = 2.0, 0.2  # times the loss at chance level; share of the losses in the last third beyond it
MIN_MEASUREMENTS = 3
PATIENCE = 0.03  # of the training budget
PATIENCE_NEAR = 0.1  # … for ratios below `FAR_TOO_FAR`
JUMP = 3.0  # factor of the learning rate from one step to the next; after its first steps a warm-up stays below
BEFORE, AFTER = 20, 3  # losses to compare before and after a jump
HARM = 0.1  # of the baseline, by which the loss rises
TOO_SHORT = 0.05  # planned steps · ‖ΔW‖/‖W‖: weights that move by at most a twentieth stay as initialized
STILL = 1e-5  # ‖ΔW‖/‖W‖ where the number of steps is unknown (SageMaker Debugger, AutoTrainer)
STANDSTILL = 0.005  # planned steps · ‖ΔW‖/‖W‖ where the loss shows nothing: fine-tuning moves weights by a hundredth
UNKNOWN_STEPS = 500
PATIENCE_LOW = 0.05
USUAL_STEP = 1e-3  # ‖ΔW‖/‖W‖ (Karpathy 2015)
NUM_PARTS, MIN_LOSSES = 5, 50
STEADY = 0.5  # of the average fall: a loss that settles falls by far less at the end
LEAST_FALL = 0.03  # of the baseline
RESOLUTION = 6e-8  # relative change of a float32 that is rounded away
FALLEN, AT_REST = 1e3, 0.3  # factor by which the rate fell; share of the steps so far without any change of the weights
STEEP, UNFINISHED = 0.1, 0.7  # fall of the loss from one tenth of the budget to the next; fraction of the baseline


@LR_TOO_HIGH.rule
def find_lr_too_high(observations: Observations) -> list[Finding]:
    """Find steps that are too large for their weights, or a learning rate that jumped, where the loss suffers.

    r = median over the weights of ‖ΔW‖/‖W‖ > 0.1 on any measurement; above 0.3, a loss that lags is enough to alarm. Up
    to 0.3, what the training learned after such steps shows that it survived them: adaptive optimizers and clipped
    gradients begin with large steps. Where the level of the loss shows nothing, as in a GAN, steps larger than the
    weights alarm, unless the rate is known and within thirty times of the usual one. At a rate beyond that, so does a
    loss above twice chance level on a fifth of the steps in the last third, whatever its median.
    """
    progress = progress_of(observations)
    jump = _find_jump(observations, progress)
    if jump is not None:
        return [jump]
    ratios = update_ratios(observations)
    if ratios is None:
        return []
    medians = row_medians(ratios)
    beyond = np.flatnonzero(medians > TOO_FAR)
    if not beyond.size:
        return []
    step = int(ratios.steps[beyond[0]])
    largest = float(np.nanmax(medians))
    share = share_done(observations, last_step(observations))
    rate = rate_of(observations)
    suffices = rate.distance > FAR_FROM_USUAL
    ill = progress is None or (progress.lags if largest > FAR_TOO_FAR else progress.suffers)
    suffers = ill and (progress is None or share >= (PATIENCE if largest > FAR_TOO_FAR else PATIENCE_NEAR))
    if progress is not None and not progress.is_measure:
        suffers = (
            largest > TORN and (suffices or rate.lr is None)
        ) or progress.suffers  # no loss shows that weights survived it
    if suffices and largest > TORN and _is_erratic(observations, progress):
        suffers = True
    if progress is not None and largest <= FAR_TOO_FAR and progress.overcame(int(ratios.steps[beyond[-1]])):
        suffers = False
    return [
        Finding(
            kind=LR_TOO_HIGH.name,
            severity="info" if not suffers else "critical" if largest > TORN else "warning",
            layer=None,
            first_step=step,
            last_step=int(ratios.steps[beyond[-1]]),
            evidence={
                "update_ratio": float(f"{largest:.3g}"),
                "threshold": TOO_FAR,
                **_lr(observations),
                SUFFICES: suffices,
            },
        )
    ]


def _is_erratic(observations: Observations, progress: Progress | None) -> bool:
    """Return whether many of the last losses are far above chance level, though most may be near zero."""
    prior, losses = observations.about.prior_loss, observations.scalars.get(names.TRAIN_LOSS)
    if progress is None or losses is None or len(losses.values) < MIN_LOSSES:
        return False
    if not progress.is_measure or progress.baseline != prior:  # chance level is unknown, or on another scale
        return False
    last = losses.values[-len(losses.values) // 3 :]
    return float(np.mean(last > ERRATIC * progress.baseline)) > ERRATIC_SHARE


def _find_jump(observations: Observations, progress: Progress | None) -> Finding | None:
    """Return the finding for a sudden increase of the learning rate after which the loss rose."""
    rates, losses = observations.scalars.get(names.LR), observations.scalars.get(names.TRAIN_LOSS)
    if rates is None or losses is None or progress is None or len(rates.steps) < 2:
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        factors = rates.values[1:] / rates.values[:-1]
    jumps = np.flatnonzero((factors > JUMP) & (rates.values[:-1] > 0) & (rates.steps[1:] > BEFORE)) + 1
    for place in jumps[::-1]:
        step = int(rates.steps[place])
        before, after = _around(losses, step)
        broke = names.TRAIN_NONFINITE in observations.scalars and len(after) < AFTER
        rose = len(after) >= AFTER and np.median(after) - np.median(before) > HARM * abs(progress.baseline)
        if len(before) and (broke or rose) and (broke or progress.suffers or progress.now > np.median(before)):
            evidence = {"lr_before": float(rates.values[place - 1]), "lr": float(rates.values[place])}
            last = int(losses.steps[-1])
            evidence |= {"threshold": JUMP, SUFFICES: True}
            return Finding(LR_TOO_HIGH.name, "critical", None, step, max(step, last), evidence)
    return None


def _around(losses: Series, step: int) -> tuple[np.ndarray, np.ndarray]:
    place = int(np.searchsorted(losses.steps, step, side="right"))  # the loss of that step precedes the jump
    return losses.values[max(0, place - BEFORE) : place], losses.values[place : place + BEFORE]


@LR_TOO_LOW.rule
def find_lr_too_low(observations: Observations) -> list[Finding]:
    """Find steps so small that the weights stay as initialized: planned steps · median ‖ΔW‖/‖W‖ < 0.05.

    Where the level of the loss shows nothing, < 0.005 alarms. Or a training that ends while the loss still falls
    steeply: the last tenth is 10% below the tenth before it, and the loss is less than 70% below the baseline; or steps
    below their usual size, ‖ΔW‖/‖W‖ < 1e-3, with which little was learned although the loss fell in each fifth of the
    training, and in the last one by at least half of the average. If nobody said how long it is to train, it may just
    as well go on: then the updates must be below their usual size in both cases. Or a rate that fell until no weight
    changes any more, while the loss is less than 80% below the baseline: whatever the budget, that was all.
    """
    ratios, progress = update_ratios(observations), progress_of(observations)
    if ratios is None or progress is None or len(ratios.steps) < MIN_MEASUREMENTS or _is_warming_up(observations):
        return []
    medians = row_medians(ratios)
    if np.isnan(medians).all():
        return []
    typical, num_steps = float(np.nanmedian(medians)), observations.about.num_steps
    is_short = typical * num_steps < TOO_SHORT if num_steps else typical < STILL
    is_short = is_short and not np.nanmax(medians) > TOO_FAR  # else they stopped moving after a step that was too large
    is_cut_off = progress.is_planned and progress.share >= 1 and progress.steepness > STEEP
    is_cut_off = is_cut_off and progress.is_falling and 0 < progress.fall < UNFINISHED
    is_cut_off = is_cut_off or (progress.suffers and typical < USUAL_STEP and _falls_steadily(observations, progress))
    is_cut_off = is_cut_off and (typical < USUAL_STEP or not observations.about.is_open_ended)
    is_cut_off = is_cut_off or (progress.fall < LATE_FALL_UNHEALTHY and _came_to_rest(observations, ratios))
    if not is_short and not is_cut_off:
        return []
    step = int(ratios.steps[-1])
    stands = not progress.is_measure and is_short and typical * (num_steps or UNKNOWN_STEPS) < STANDSTILL
    suffers = (progress.lags or is_cut_off or stands) and share_done(observations, step) >= PATIENCE_LOW
    return [
        Finding(
            kind=LR_TOO_LOW.name,
            severity="warning" if suffers else "info",
            layer=None,
            first_step=int(ratios.steps[0]),
            last_step=step,
            evidence={
                "update_ratio": float(f"{typical:.3g}"),
                "num_steps": num_steps,
                **_lr(observations),
                SUFFICES: is_short and rate_of(observations).distance < 1 / FAR_FROM_USUAL,
            },
        )
    ]


def _falls_steadily(observations: Observations, progress: Progress) -> bool:
    """Return whether a training ends while the loss falls as fast as on average, and did so all the time."""
    losses = observations.scalars[names.TRAIN_LOSS].values
    if not progress.is_planned or progress.share < 1 or not progress.is_measure or len(losses) < MIN_LOSSES:
        return False
    drops = -np.diff([np.median(part) for part in np.array_split(losses, NUM_PARTS)])
    total, noise = drops.sum(), np.median(np.abs(np.diff(losses)))
    is_real = total > max(LEAST_FALL * abs(progress.baseline), noise)
    return bool((drops > 0).all() and drops[-1] > STEADY * total / len(drops) and is_real)


def _came_to_rest(observations: Observations, ratios: Table) -> bool:
    """Return whether the learning rate fell so far that for some time no weight has changed: more steps do nothing."""
    rates = observations.scalars.get(names.LR)
    if rates is None or not len(rates.steps) or not rates.values.max() > FALLEN * rates.values[-1]:
        return False
    moving = np.flatnonzero(row_medians(ratios) > RESOLUTION)
    since = int(ratios.steps[moving[-1]]) if moving.size else 0
    now = last_step(observations)
    return now - since >= max(BEFORE, AT_REST * (now + 1))


def _is_warming_up(observations: Observations) -> bool:
    rates = observations.scalars.get(names.LR)
    return rates is not None and len(rates.steps) > 1 and rates.values[-1] > rates.values[:-1].max()


def _lr(observations: Observations) -> dict[str, float]:
    rates = observations.scalars.get(names.LR)
    return {"lr": float(f"{rates.values.max():.3g}")} if rates is not None and len(rates.steps) else {}


@LR_TOO_HIGH.remedy
def remedy_lr_too_high(finding: Finding, about: About) -> list[remedies.Remedy]:
    """Propose the rate before it jumped, else one at which updates have their usual size; then Adam, or a warm-up."""
    before = finding.evidence.get("lr_before")
    lower = remedies.set_lr(before, "The rate before it rose.") if before else remedies.lower_lr(about)
    gentle = [] if before else remedies.lower_lr_gently(about)
    return [*lower, *remedies.adam(about), *gentle, *remedies.warmup(about), *remedies.clip(about)]


@LR_TOO_LOW.remedy
def remedy_lr_too_low(finding: Finding, about: About) -> list[remedies.Remedy]:
    """Propose the rate at which updates have their usual size, Adam, or a search for the rate."""
    return [*remedies.higher_lr(about), *remedies.adam(about), *remedies.search_lr(about)]
