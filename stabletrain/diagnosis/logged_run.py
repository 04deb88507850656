"""What can be said of a training from the log of another tool: from losses, learning rates and norms alone.

The rules are the same as for a record. What they need and the log lacks is named instead of being guessed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from stabletrain.diagnosis.doctor import diagnose
from stabletrain.diagnosis.logged_losses import (
    MIN_LOSSES,
    above_zero,
    fall_of,
    has_diverged,
    has_relapsed,
    swings_widened,
)
from stabletrain.diagnosis.observations import Observations, Series
from stabletrain.diagnosis.recorded_run import RecordedRun, observe
from stabletrain.diagnosis.rules.clipping import ALWAYS, MIN_MEASUREMENTS
from stabletrain.diagnosis.rules.loss import MIN_STEPS, PROGRESS, PROGRESS_AT_THE_END, SPIKE_WARMUP
from stabletrain.vocabulary import metric_names as names
from stabletrain.vocabulary.finding import BECAUSE, INFO, UNKNOWN, Finding, verdict_of
from stabletrain.vocabulary.kinds import (
    CLIP_ALWAYS,
    EXPLODING,
    KINDS,
    LOSS_SPIKE,
    LR_TOO_HIGH,
    NO_PROGRESS,
    NONFINITE,
    OSCILLATION,
)
from stabletrain.vocabulary.log_format import LogFormat

NOT_FALLEN = "The loss has not fallen since it was first logged: search for a learning rate that lowers it."
MIN_VALIDATIONS = 3
GUESS = 0.55  # an accuracy that a guess between two classes may reach
GAIN = 0.05  # of the accuracy: what a validation gains or loses by chance, see `rules.loss.BACK_AND_FORTH`
ALONE = "severity_alone"  # in the evidence of a symptom, see `diagnosis.causes`
CAPPED = 1e-3  # relative deviation of norms that clipping has made equal; they are logged with three digits or more
OF_LOSS = (LOSS_SPIKE.name, OSCILLATION.name, NO_PROGRESS.name)  # kinds that presume a loss that should fall
FROM_LOGS = (*OF_LOSS, NONFINITE.name, CLIP_ALWAYS.name, EXPLODING.name, LR_TOO_HIGH.name)  # kinds that a log can show


class LoggedRun(RecordedRun, Protocol):
    """A log; `record.foreign_logs.log.ForeignLog` is one."""

    @property
    def format(self) -> LogFormat:
        """Its kind."""
        ...

    @property
    def unit(self) -> str:
        """What it counts: `steps`, `epochs` or `rows`."""
        ...

    @property
    def steps_per_unit(self) -> int:
        """Number of steps that the rules count for one of them."""
        ...

    @property
    def why_not_falling(self) -> str:
        """Why the loss of this training need not fall; "" if it should."""
        ...


@dataclass(frozen=True)
class LogDiagnosis:
    """What a log shows, and what it does not.

    Attributes:
        findings: Worst first; their steps are in the unit of the log.
        verdict: `healthy`, `unknown`, or the kind of the worst finding.
        reason: Why nothing can be said, if the verdict is `unknown`; else "".
        missing: What was not recorded.
        unjudged: Names of the kinds that could not be judged without it.
    """

    findings: list[Finding]
    verdict: str
    reason: str
    missing: list[str]
    unjudged: list[str]


def diagnose_log(log: LoggedRun) -> LogDiagnosis:
    """Apply the rules to the log of another tool."""
    logged = observe(log)
    observations, notes = _prepare(logged)
    findings = _without_doubtful(diagnose(observations), logged, log.why_not_falling) + notes
    reason = _too_little(observations, log)
    missing, unjudged = _unjudged(observations, log)
    verdict = verdict_of(findings, bool(reason))
    return LogDiagnosis(
        findings=[_in_units(f, observations, log.steps_per_unit) for f in findings],
        verdict=verdict,
        reason=reason if verdict == UNKNOWN else "",
        missing=missing,
        unjudged=unjudged,
    )


def _without_doubtful(findings: Sequence[Finding], logged: Observations, why_not_falling: str) -> list[Finding]:
    """Return the findings without what the loss of this log cannot show; what may be noise is a note.

    Where a doubtful finding explained others, these stand for themselves.
    """
    losses = logged.scalars.get(names.TRAIN_LOSS)
    if why_not_falling or losses is None or len(losses.values) < MIN_LOSSES:
        denied = OF_LOSS
    else:
        denied = (NO_PROGRESS.name,) if _validation_improves(logged) else ()
    kept = [f for f in findings if f.kind not in denied or _is_of_accuracy(f)]
    if losses is None or not len(losses.values):
        return kept
    doubtful = {f.kind for f in kept if not _is_of_accuracy(f) and _is_doubtful(f.kind, losses.values)}
    freed = [_freed(f) if f.because_of in doubtful and f.kind not in doubtful else f for f in kept]
    return [replace(f, severity=INFO) if f.kind in doubtful else f for f in freed]


def _is_doubtful(kind: str, losses: np.ndarray) -> bool:
    """Return whether a finding about a loss may be due to noise, or to a loss of which nobody knows where it leads."""
    if kind in OF_LOSS and losses.min() < 0:  # such as that of a policy gradient
        return not has_diverged(losses)
    if kind == LOSS_SPIKE.name:
        return not has_relapsed(losses)
    return kind == OSCILLATION.name and not swings_widened(losses)


def _freed(finding: Finding) -> Finding:
    """Return a symptom as a finding of its own."""
    evidence = {name: value for name, value in finding.evidence.items() if name not in (BECAUSE, ALONE)}
    return replace(finding, severity=finding.evidence.get(ALONE, finding.severity), evidence=evidence)


def _prepare(observations: Observations) -> tuple[Observations, list[Finding]]:
    """Return the observations as the rules expect them, and findings of severity `info` that only logs need."""
    scalars, notes = dict(observations.scalars), []
    if (found := _pop_nonfinite(scalars)) is not None:
        notes.append(found)
    if (found := _pop_capped_norm(scalars)) is not None:
        notes.append(found)
    if (losses := scalars.get(names.TRAIN_LOSS)) is not None and len(losses.values):
        scalars[names.TRAIN_LOSS] = Series(losses.steps, above_zero(losses.values))
    return replace(observations, scalars=scalars), notes


def _pop_nonfinite(scalars: dict[str, Series]) -> Finding | None:
    """Count a norm that is not finite like a loss; if finite ones follow, return a finding in place of the count.

    A loss scaler skips the steps on which the gradient overflows (Micikevicius et al. 2018, section 3.2).
    """
    of_norm = scalars.pop(names.nonfinite_of(names.NORM_TOTAL), None)
    of_loss = scalars.pop(names.TRAIN_NONFINITE, None)
    counted = [
        (count, scalars.get(name))
        for count, name in ((of_loss, names.TRAIN_LOSS), (of_norm, names.NORM_TOTAL))
        if count is not None and len(count.steps)
    ]
    if not counted:
        return None
    steps = np.unique(np.concatenate([count.steps for count, _ in counted]))
    if all(
        finite is not None and len(finite.steps) and finite.steps[-1] > count.steps[-1] for count, finite in counted
    ):
        evidence = {"signal": "loss" if of_loss is not None else "gradient norm", "num_nonfinite": len(steps)}
        return Finding(NONFINITE.name, INFO, None, int(steps[0]), int(steps[-1]), evidence, NONFINITE.advice)
    scalars[names.TRAIN_NONFINITE] = Series(steps, np.arange(1.0, len(steps) + 1))
    return None


def _pop_capped_norm(scalars: dict[str, Series]) -> Finding | None:
    """Take a norm that stays at its largest value for one after clipping, and return that it is clipped on every step.

    How large the gradient was before cannot be told from it.
    """
    norms = scalars.get(names.NORM_TOTAL)
    if norms is None or names.NORM_AFTER in scalars or len(norms.values) < MIN_MEASUREMENTS:
        return None
    cap = float(norms.values.max())
    at_cap = norms.values > cap * (1 - CAPPED)
    if cap <= 0 or at_cap[-MIN_MEASUREMENTS:].mean() <= ALWAYS:
        return None
    scalars[names.NORM_AFTER] = scalars.pop(names.NORM_TOTAL)
    evidence = {"norm": cap, "share_clipped": round(float(at_cap.mean()), 3)}
    first, last = int(norms.steps[np.argmax(at_cap)]), int(norms.steps[-1])
    return Finding(CLIP_ALWAYS.name, INFO, None, first, last, evidence, CLIP_ALWAYS.advice)


def _too_little(observations: Observations, log: LoggedRun) -> str:
    """Return why a log without an alarm does not show a healthy training; "" if it does."""
    losses = observations.scalars.get(names.TRAIN_LOSS)
    if losses is None:
        return "the loss of the training is not in the log"
    if len(losses.steps) < MIN_LOSSES:
        return f"{len(losses.steps)} losses are too few to tell a level from noise; {log.format.often}"
    if log.why_not_falling:
        return log.why_not_falling
    if (stuck := _stuck_accuracy(observations)) is not None:
        return f"the accuracy of the validation stays at {stuck:.2g}"
    fall, is_clear = fall_of(losses.values)
    if (fall > PROGRESS_AT_THE_END and is_clear) or _validation_improves(observations):
        return ""
    fallen = f"the loss has fallen by {max(fall, 0.0):.0%}" + ("" if is_clear else ", less than it varies,")
    last = int(losses.steps[-1])
    if last + 1 < MIN_STEPS:
        early, least = last // log.steps_per_unit, MIN_STEPS // log.steps_per_unit
        return f"{fallen} by {log.unit[:-1]} {early:,}, which is too early to judge ({least:,})"
    return f"{fallen} since it was first logged, and what it was before is not known"


def _stuck_accuracy(observations: Observations) -> float | None:
    """Return the accuracy of the validation if it stays where it was at first, no better than a guess."""
    scores = observations.scalars.get(names.VAL_ACCURACY)
    if scores is None or len(scores.values) < MIN_VALIDATIONS:
        return None
    best = float(scores.values.max())
    return best if best <= GUESS and best - scores.values[0] <= GAIN else None


def _is_of_accuracy(finding: Finding) -> bool:
    """Return whether a finding was measured on an accuracy, as a loss spike or an oscillation may be."""
    return any(names.ACCURACY in name for name in finding.evidence)


def _validation_improves(observations: Observations) -> bool:
    """Return whether accuracy or validation show that something was learned, whatever the training's loss does."""
    for name, sign in (
        (names.of_stage(names.TRAIN, names.ACCURACY), 1.0),
        (names.VAL_ACCURACY, 1.0),
        (names.VAL_LOSS, -1.0),
    ):
        if (series := observations.scalars.get(name)) is None or len(series.values) < 2:
            continue
        gain = float((sign * (series.values[1:] - series.values[0])).max())
        if gain > (GAIN if sign > 0 else PROGRESS * abs(float(series.values[0]))):
            return True
    return False


def _unjudged(observations: Observations, log: LoggedRun) -> tuple[list[str], list[str]]:
    """Return what was not recorded, and the kinds that depend on it."""
    scalars = observations.scalars
    num_losses = len(scalars[names.TRAIN_LOSS].steps) if names.TRAIN_LOSS in scalars else 0
    is_lost = names.TRAIN_NONFINITE in scalars and not num_losses  # it was recorded, and never finite
    missing, kinds = [], []
    if log.why_not_falling:
        kinds += OF_LOSS
    if not num_losses and not is_lost:
        missing.append("the loss of the training")
        kinds += OF_LOSS
    elif num_losses <= SPIKE_WARMUP and not is_lost:
        missing.append(f"more than {num_losses} losses ({log.format.often})")
        kinds += OF_LOSS[:2]
    if names.LR not in scalars:
        missing.append("the learning rate")
        kinds.append(LR_TOO_HIGH.name)
    if names.NORM_TOTAL not in scalars:
        missing.append(
            "the norm of the gradient before clipping" if names.NORM_AFTER in scalars else "the norm of the gradient"
        )
        kinds.append(EXPLODING.name)
        kinds += [CLIP_ALWAYS.name] if names.NORM_AFTER not in scalars else []
    missing.append("anything about single layers")
    return missing, [*dict.fromkeys(kinds), *(kind for kind in KINDS if kind not in FROM_LOGS)]


def _in_units(finding: Finding, observations: Observations, steps_per_unit: int) -> Finding:
    """Return a finding with its steps in the unit of the log, and worded by what a log shows."""
    evidence = finding.evidence
    advice = _advice_on_rate(observations) if finding.kind == NO_PROGRESS.name else finding.advice
    counts = observations.scalars.get(names.TRAIN_NONFINITE)
    if finding.kind == NONFINITE.name and counts is not None and len(counts.values):
        evidence = evidence | {"num_nonfinite": int(counts.values[-1])}
    first, last = finding.first_step // steps_per_unit, finding.last_step // steps_per_unit
    return replace(finding, first_step=first, last_step=last, evidence=evidence, advice=advice)


def _advice_on_rate(observations: Observations) -> str:
    """Return what to do about a loss that does not fall, where nothing is known of the network."""
    rates = observations.scalars.get(names.LR)
    than = f" than {rates.values.max():.3g}" if rates is not None and len(rates.values) else ""
    return f"{NOT_FALLEN} In code: try ten times higher and ten times lower ones{than}."
