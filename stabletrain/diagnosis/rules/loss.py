"""What the loss alone shows: it jumps, oscillates, or stays at chance level."""

from __future__ import annotations

from typing import Any

import numpy as np

from stabletrain.diagnosis import remedies
from stabletrain.diagnosis.observations import About, Observations, Series
from stabletrain.diagnosis.progress import WINDOW_SHARE, WORSE, Progress, progress_of, running_medians
from stabletrain.diagnosis.weight_tables import row_medians, update_ratios
from stabletrain.diagnosis.windows import FLOOR, decades, find_outliers, first_run
from stabletrain.vocabulary import metric_names as names
from stabletrain.vocabulary.clients import LOOP
from stabletrain.vocabulary.finding import RECOVERED, SEVERITIES, Finding
from stabletrain.vocabulary.kinds import LOSS_SPIKE, NO_PROGRESS, OSCILLATION

SPIKE_LENGTH = 5  # consecutive losses (KillLossSpike): a single outlier batch is no spike
SPIKE_WARMUP = 20  # losses before a spike can be recognized
MATERIAL = 0.1  # of the baseline: the small losses of a converged network vary by any factor
SWING = 0.15  # of the baseline: half the distance between the quantiles 0.16 and 0.84 of the last third
MIN_CROSSINGS = 6  # of the middle: a drift crosses it once
NOISE = 5.0  # standard errors of the median of five losses: of many such medians, some are that far from their level
WILD = 100.0  # times the usual loss: those of healthy games stay within a factor of a few
ROUNDS_SHARE, MIN_ROUNDS = (
    0.05,
    100,
)  # width of the means of a game's loss, of all steps; losses from which on they count
FAR, LOUD, TURNS = 0.4, 10.0, 3  # of its typical size, of its noise, and how often; healthy games: 0.3, 20, 8
OSCILLATION_PATIENCE = 0.1  # of the training budget
BACK_AND_FORTH = 0.05  # change of the accuracy from one validation to the next
RETURNED = 0.4  # of the total variation: what is gained is lost again
LAST_VALIDATIONS = 3
FORGOTTEN = 0.25  # accuracy lost from the best validation to the last ones
MIN_VALIDATIONS = 10
TURNS_PATIENCE = 0.8  # of the training budget
USUAL_STEP = 1e-3  # ‖ΔW‖/‖W‖ (Karpathy 2015)
PROGRESS_PATIENCE = 0.3  # of the training budget
CRITICAL_PATIENCE = 0.5
PROGRESS = 0.03  # of the baseline: a smaller decrease means that nothing was learned
PROGRESS_AT_THE_END = 0.15
LATE = 0.8  # of the training budget: a loss that only falls by then will not reach its goal
MIN_STEPS = 500  # where the number of steps is unknown
MIN_PLANNED_STEPS = 100  # fewer are a trial, not a training


@LOSS_SPIKE.rule
def find_loss_spike(observations: Observations) -> list[Finding]:
    """Find a loss that jumped far above its past for at least five consecutive steps.

    z = (log10 L - median) / (1.4826 MAD) > 6, or the median of five losses is 0.15 baselines above the best such
    median. It is `info` if the loss recovered, but not in a game such as a GAN if it jumped a hundredfold. Or the
    validation accuracy fell by a quarter below its best and stays there, whatever the training loss does: a bad batch
    may spoil statistics that only validation uses, such as those of batch norm.
    """
    spike = _find_spike(observations)
    return spike if any(f.alarms for f in spike) else _find_forgotten(observations) or spike


def _find_forgotten(observations: Observations) -> list[Finding]:
    scores = observations.scalars.get(names.VAL_ACCURACY)
    if scores is None or len(scores.values) <= LAST_VALIDATIONS:
        return []
    best, now = int(np.argmax(scores.values[:-LAST_VALIDATIONS])), float(np.median(scores.values[-LAST_VALIDATIONS:]))
    if scores.values[best] - now <= FORGOTTEN:
        return []
    fallen = np.flatnonzero(scores.values[best:] < scores.values[best] - FORGOTTEN)
    return [
        Finding(
            kind=LOSS_SPIKE.name,
            severity="critical",
            layer=None,
            first_step=int(scores.steps[best + fallen[0]]),
            last_step=int(scores.steps[-1]),
            evidence={"accuracy": now, "best_accuracy": float(scores.values[best]), "threshold": FORGOTTEN},
        )
    ]


def _find_spike(observations: Observations) -> list[Finding]:
    losses, progress = observations.scalars.get(names.TRAIN_LOSS), progress_of(observations)
    if losses is None or progress is None or len(losses.steps) <= SPIKE_WARMUP:
        return []
    start = _spike_start(losses, progress)
    if start is None:
        return []
    level = _level_since(losses.values, start)
    usual = float(np.median(losses.values[max(0, start - SPIKE_WARMUP) : start]))
    stays = level - usual > MATERIAL * abs(progress.baseline)
    severity = "critical" if stays and progress.suffers else "info"
    if observations.about.is_game and usual > 0 and losses.values[start:].max() > WILD * usual:
        severity = max("warning", severity, key=SEVERITIES.index)  # of a game, no loss shows that it recovered
    last = len(losses.steps) - 1 if stays else min(start + SPIKE_LENGTH, len(losses.steps) - 1)
    return [
        Finding(
            kind=LOSS_SPIKE.name,
            severity=severity,
            layer=None,
            first_step=int(losses.steps[start]),
            last_step=int(losses.steps[last]),
            evidence={
                "usual_loss": usual,
                "largest_loss": float(losses.values[start:].max()),
                "threshold_z": 6,
                RECOVERED: not stays,
            },
        )
    ]


def _level_since(values: np.ndarray, start: int) -> float:
    """Return the last level after a spike: the lower one of the last five losses and of the last tenth."""
    width = max(SPIKE_LENGTH, round(WINDOW_SHARE * len(values)))
    return float(min(np.median(values[-SPIKE_LENGTH:]), np.median(values[max(start, len(values) - width) :])))


def _spike_start(losses: Series, progress: Progress) -> int | None:
    values = losses.values
    logs = decades(np.maximum(values, 10**FLOOR))
    starts = [first_run(find_outliers(logs.tolist(), warmup=SPIKE_WARMUP), SPIKE_LENGTH)]
    levels = running_medians(values, SPIKE_LENGTH)
    lowest = np.minimum.accumulate(levels)
    least = max(WORSE * abs(progress.baseline), NOISE * _error(values, levels))
    worse = levels[SPIKE_LENGTH:] - lowest[:-SPIKE_LENGTH] > least
    place = first_run(worse, SPIKE_LENGTH)
    starts.append(None if place is None else place + SPIKE_LENGTH + SPIKE_LENGTH // 2)
    rises = [i for i in starts if i is not None and i >= SPIKE_WARMUP]
    return min((i for i in rises if _rise(values, i) > MATERIAL * abs(progress.baseline)), default=None)


def _error(values: np.ndarray, levels: np.ndarray) -> float:
    """Return the standard error of the median of five losses."""
    half = SPIKE_LENGTH // 2
    deviation = 1.4826 * float(np.median(np.abs(values[half : half + len(levels)] - levels)))
    return 1.25 * deviation / SPIKE_LENGTH**0.5


def _rise(values: np.ndarray, start: int) -> float:
    usual = np.median(values[max(0, start - SPIKE_WARMUP) : start])
    return float(np.median(values[start : start + SPIKE_LENGTH]) - usual)


@OSCILLATION.rule
def find_oscillation(observations: Observations) -> list[Finding]:
    """Find losses that swing widely around a level that does not fall, or validations that go back and forth.

    (q84 - q16) / 2 of the last third > 0.15 baselines (quantiles, because the median of a loss that alternates between
    two levels is one of the two). Or, with a the accuracy over the validations of the last half, median |Δa| > 0.05 and
    1 - |ΣΔa|/Σ|Δa| > 0.4: what one validation gains, the next loses (AutoTrainer counts such turns). Weights that move
    by less than usual, ‖ΔW‖/‖W‖ < 1e-3, make no loss swing from step to step: what swings is the choice of the batches.
    Or, in a game, a level that goes round: means over 5% of the steps move far, ten times as far as the noise, and turn
    three times. Gradient descent on two players circles around their equilibrium (Mescheder et al. 2018).
    """
    swing = _find_swing(observations)
    if any(f.alarms for f in swing):
        return swing
    return _find_back_and_forth(observations) or _find_rounds(observations) or swing


def _find_rounds(observations: Observations) -> list[Finding]:
    losses = observations.scalars.get(names.TRAIN_LOSS)
    if losses is None or not observations.about.is_game or len(losses.values) < MIN_ROUNDS:
        return []
    width = round(ROUNDS_SHARE * len(losses.values))
    begin = len(losses.values) // 3  # both networks first find out what the other one does
    values = losses.values[begin:]
    means = np.convolve(values, np.full(width, 1 / width), "valid")
    low, high = np.quantile(means, (0.05, 0.95))
    size, noise = float(np.median(np.abs(values))), float(np.diff(values).std()) / 2**0.5
    turns = _count_turns(means, low, high)
    if high - low < FAR * size or high - low < LOUD * noise or turns < TURNS:
        return []
    evidence = {"swing": round(float(high - low) / max(size, 1e-30), 3), "threshold": FAR, "turns": turns}
    return [_oscillation(losses.steps[begin:], evidence)]


def _count_turns(values: np.ndarray, low: float, high: float) -> int:
    """Return how often values go from the highest quarter between two limits to the lowest, or back."""
    sides = np.where(values > high - (high - low) / 4, 1, np.where(values < low + (high - low) / 4, -1, 0))
    return int(np.count_nonzero(np.diff(sides[sides != 0])))


def _find_back_and_forth(observations: Observations) -> list[Finding]:
    scores, progress = observations.scalars.get(names.VAL_ACCURACY), progress_of(observations)
    if scores is None or progress is None or progress.share < TURNS_PATIENCE or len(scores.values) < MIN_VALIDATIONS:
        return []
    half = len(scores.values) // 2
    changes = np.diff(scores.values[half:])
    typical, total = float(np.median(np.abs(changes))), float(np.abs(changes).sum())
    if typical <= BACK_AND_FORTH or total - abs(changes.sum()) <= RETURNED * total:
        return []
    evidence = {"change_of_accuracy": round(typical, 3), "threshold": BACK_AND_FORTH}
    return [_oscillation(scores.steps[half:], evidence)]


def _find_swing(observations: Observations) -> list[Finding]:
    losses, progress = observations.scalars.get(names.TRAIN_LOSS), progress_of(observations)
    if losses is None or progress is None or progress.share < OSCILLATION_PATIENCE:
        return []
    last = losses.values[-max(SPIKE_WARMUP, len(losses.values) // 3) :]
    low, high = np.quantile(last, (0.16, 0.84))  # one deviation either way of a normal distribution
    middle, spread = (low + high) / 2, float(high - low) / 2
    crossings = int(np.count_nonzero(np.diff(last > middle)))
    if len(last) < SPIKE_WARMUP or spread < SWING * abs(progress.baseline) or crossings < MIN_CROSSINGS:
        return []
    half = len(last) // 2
    falls = last[:half].mean() - last[half:].mean() > spread / 2
    evidence = {
        "swing": round(spread / max(abs(progress.baseline), 1e-30), 3),
        "threshold": SWING,
        "crossings": crossings,
    }
    severity = "warning" if progress.suffers and not falls and not _hardly_moves(observations) else "info"
    return [_oscillation(losses.steps[-len(last) :], evidence, severity)]


def _oscillation(steps: np.ndarray, evidence: dict[str, Any], severity: str = "warning") -> Finding:
    return Finding(OSCILLATION.name, severity, None, int(steps[0]), int(steps[-1]), evidence)


def _hardly_moves(observations: Observations) -> bool:
    """Return whether the weights are known to move by less than usual on each step."""
    ratios = update_ratios(observations)
    medians = np.empty(0) if ratios is None else row_medians(ratios)
    known = medians[np.isfinite(medians)]
    return known.size > 0 and float(np.median(known)) < USUAL_STEP


@NO_PROGRESS.rule
def find_no_progress(observations: Observations) -> list[Finding]:
    """Find a loss that is still at chance level after 30% of the steps and does not fall.

    At chance level means less than 3% below the baseline at any time, rising to 15% at the end of the training budget.
    After 80% of the budget, a loss that still falls is reported as well. A training of fewer than 100 steps is a trial,
    unless your own loop says that these are all steps, and how large the prior loss is.
    """
    losses, progress = observations.scalars.get(names.TRAIN_LOSS), progress_of(observations)
    if losses is None or progress is None or (progress.is_falling and progress.share < LATE):
        return []
    late = max(0.0, progress.share - PROGRESS_PATIENCE) / (1 - PROGRESS_PATIENCE) if progress.is_planned else 0.0
    if progress.best_fall > PROGRESS + (PROGRESS_AT_THE_END - PROGRESS) * late:
        return []  # something was learned; if it was lost again, another rule finds that
    least = MIN_PLANNED_STEPS if progress.is_planned else MIN_STEPS
    if progress.share >= 1 and _is_said_to_be_all(observations.about):
        least = SPIKE_WARMUP
    if progress.share < PROGRESS_PATIENCE or losses.steps[-1] + 1 < least:
        return []
    return [
        Finding(
            kind=NO_PROGRESS.name,
            severity="critical" if progress.share >= CRITICAL_PATIENCE else "warning",
            layer=None,
            first_step=int(losses.steps[0]),
            last_step=int(losses.steps[-1]),
            evidence={
                "loss": progress.now,
                "guess": progress.baseline,
                "fall": round(progress.fall, 4),
                **remedies.steady_fall(progress),
            },
        )
    ]


def _is_said_to_be_all(about: About) -> bool:
    return about.client == LOOP and not about.is_open_ended and bool(about.prior_loss)


@LOSS_SPIKE.remedy
def remedy_loss_spike(finding: Finding, about: About) -> list[remedies.Remedy]:
    """Propose clipping, also of what is unusual for this run, then a lower rate."""
    return [*remedies.clip(about), *remedies.lower_lr(about), *remedies.warmup(about)]


@OSCILLATION.remedy
def remedy_oscillation(finding: Finding, about: About) -> list[remedies.Remedy]:
    """Propose what keeps a recurrent state from growing, then smaller steps, or steps of an adaptive size."""
    plateau = remedies.Remedy("schedule=plateau", "Smaller steps once the loss stops falling.")
    return [*remedies.norm_preserving(about), *remedies.lower_lr(about), *remedies.adam(about), plateau]


@NO_PROGRESS.remedy
def remedy_no_progress(finding: Finding, about: About) -> list[remedies.Remedy]:
    """Propose Adam, more steps if they are few, larger ones if the loss falls, a usual rate, then better gradients."""
    more = remedies.longer(about) if remedies.is_too_short(about) else []
    scale = [*remedies.initialization(about), *remedies.norm(about)]
    rate = [*remedies.adam(about), *more, *remedies.larger_steps(finding, about), *remedies.usual_lr(about)]
    return [*rate, *remedies.rectified(about), *scale, *remedies.skips(about), *remedies.search_lr(about)]
