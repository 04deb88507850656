"""What can be said of a training from the log of another tool: from losses, learning rates and norms alone.

The rules are the same as for a record. What they need and the log lacks is named instead of being guessed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from stabletrain.diagnosis.doctor import diagnose
from stabletrain.diagnosis.observations import Observations, Series
from stabletrain.diagnosis.progress import progress_of
from stabletrain.diagnosis.recorded_run import RecordedRun, observe
from stabletrain.diagnosis.rules.clipping import ALWAYS, MIN_MEASUREMENTS
from stabletrain.diagnosis.rules.loss import MIN_STEPS, PROGRESS, SPIKE_WARMUP
from stabletrain.vocabulary import metric_names as names
from stabletrain.vocabulary.finding import INFO, Finding, verdict_of
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

MIN_LOSSES = 5  # of fewer, no rule can tell a level from noise
CAPPED = 1e-3  # relative deviation of norms that clipping has made equal; they are logged with three digits or more
OF_LOSS = (LOSS_SPIKE.name, OSCILLATION.name, NO_PROGRESS.name)  # kinds that presume a loss that should fall
FROM_LOGS = (*OF_LOSS, NONFINITE.name, CLIP_ALWAYS.name, EXPLODING.name, LR_TOO_HIGH.name)  # kinds that a log can show
NUM_NAMED = 5  # kinds that are listed by name


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
    def has_rewards(self) -> bool:
        """Whether rewards were logged, as by a training whose loss need not fall."""
        ...


@dataclass(frozen=True)
class LogDiagnosis:
    """What a log shows, and what it does not.

    Attributes:
        findings: Worst first; their steps are in the unit of the log.
        verdict: `healthy`, `unknown`, or the kind of the worst finding.
        reason: Why nothing can be said, if the verdict is `unknown`; else "".
        unjudged: What was not judged, because of what, and the code that would record it.
    """

    findings: list[Finding]
    verdict: str
    reason: str
    unjudged: list[str]


def diagnose_log(log: LoggedRun) -> LogDiagnosis:
    """Apply the rules to the log of another tool."""
    observations, notes = _prepare(observe(log))
    findings = [*diagnose(observations), *notes]
    if log.has_rewards:
        findings = [f for f in findings if f.kind not in OF_LOSS]
    reason = _too_little(observations, log)
    return LogDiagnosis(
        findings=[_in_units(f, log.steps_per_unit) for f in findings],
        verdict=verdict_of(findings, bool(reason)),
        reason=reason,
        unjudged=_unjudged(observations, log),
    )


def _prepare(observations: Observations) -> tuple[Observations, list[Finding]]:
    """Return the observations as the rules expect them, and findings of severity `info` that only logs need."""
    scalars, notes = dict(observations.scalars), []
    if (found := _pop_nonfinite(scalars)) is not None:
        notes.append(found)
    if (found := _pop_capped_norm(scalars)) is not None:
        notes.append(found)
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
    losses, progress = observations.scalars.get(names.TRAIN_LOSS), progress_of(observations)
    if losses is None or progress is None:
        return "the loss of the training is not in the log"
    if len(losses.steps) < MIN_LOSSES:
        return f"{len(losses.steps)} losses are too few to tell a level from noise"
    if log.has_rewards:
        return "where rewards are maximized, the loss does not show whether anything is learned"
    has_learned = progress.best_fall > PROGRESS or progress.is_falling
    if not has_learned and losses.steps[-1] + 1 < MIN_STEPS:
        last = int(losses.steps[-1]) // log.steps_per_unit
        least = MIN_STEPS // log.steps_per_unit
        return f"the loss has not fallen by {log.unit[:-1]} {last:,}, which is too early to judge (from {least:,} on)"
    return ""


def _unjudged(observations: Observations, log: LoggedRun) -> list[str]:
    scalars, form = observations.scalars, log.format
    missing = []
    num_losses = len(scalars[names.TRAIN_LOSS].steps) if names.TRAIN_LOSS in scalars else 0
    if not num_losses and names.TRAIN_NONFINITE not in scalars:
        missing.append(f"{_listed(OF_LOSS)}: no loss of the training; {form.often_advice}")
    elif num_losses <= SPIKE_WARMUP:
        missing.append(
            f"{_listed(OF_LOSS[:2])}: {num_losses} losses of at least {SPIKE_WARMUP + 1}; {form.often_advice}"
        )
    if log.has_rewards:
        missing.append(f"{_listed(OF_LOSS)}: with rewards, the loss need not fall")
    if names.LR not in scalars:
        missing.append(f"a jump of the learning rate: no learning rate; {form.rate_advice}")
    if names.NORM_TOTAL not in scalars:
        missing.append(f"exploding, clip_always: no norm of the gradient before clipping; {form.norm_advice}")
    others = [kind for kind in KINDS if kind not in FROM_LOGS]
    missing.append(f"{_listed(others)}: nothing about the layers; {form.advice}")
    return missing


def _listed(kinds: Sequence[str]) -> str:
    more = len(kinds) - NUM_NAMED
    return ", ".join(kinds[:NUM_NAMED]) + (f" and {more} more" if more > 0 else "")


def _in_units(finding: Finding, steps_per_unit: int) -> Finding:
    first, last = finding.first_step // steps_per_unit, finding.last_step // steps_per_unit
    return replace(finding, first_step=first, last_step=last)
