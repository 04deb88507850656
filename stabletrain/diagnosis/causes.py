"""Cause before symptom: which findings stand for themselves, and which follow from another one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from stabletrain.diagnosis.progress import Progress
from stabletrain.vocabulary.finding import (
    BECAUSE,
    GROWS,
    INFO,
    RECOVERED,
    SEVERITIES,
    SUFFICES,
    WARNING,
    Finding,
    worst_first,
)
from stabletrain.vocabulary.kinds import (
    BAD_INIT,
    DEAD_UNITS,
    KINDS,
    LOSS_SPIKE,
    LR_TOO_HIGH,
    LR_TOO_LOW,
    NO_PROGRESS,
    NONFINITE,
    SATURATION,
    SYMPTOMS,
    TIME_VANISHING,
    VANISHING,
)
from stabletrain.vocabulary.notice import CERTAINTY, SLOWS
from stabletrain.vocabulary.origins import stands_for_itself

SLACK = 20  # steps by which a symptom may be measured before its cause: some signals are measured every 10 steps
NUM_SIGNS = 2  # kinds of signs that raise an alarm together
PATIENCE = 0.5  # of the training budget, before they do
FIRST_STEPS = 10  # in which an initialization can still be the cause of an event
STRUCTURAL = tuple(kind.name for kind in (BAD_INIT, DEAD_UNITS, SATURATION, TIME_VANISHING, VANISHING))
EVENTS = (NONFINITE.name, LOSS_SPIKE.name)


def alarm_together(findings: Sequence[Finding], progress: Progress | None) -> list[Finding]:
    """Return the findings; signs become warnings where no finding alarms, the training lags and two kinds are present.

    Each sign alone also occurs in healthy runs; two of them in a run that learns little do not.
    """
    signs = {f.kind for f in findings if KINDS[f.kind].is_sign and not (progress and is_over(f, progress))}
    alarms = any(f.alarms for f in findings)
    if alarms or len(signs) < NUM_SIGNS or progress is None or not (progress.lags and progress.share >= PATIENCE):
        return [*findings]
    return [replace(f, severity=WARNING) if f.kind in signs else f for f in findings]


def is_over(finding: Finding, progress: Progress) -> bool:
    """Return whether the loss recovered from a spike, or steps that were too large ended before most was learned."""
    if finding.kind == LR_TOO_HIGH.name:
        return progress.overcame(finding.last_step)
    return bool(finding.evidence.get(RECOVERED))


def order_by_cause(findings: Sequence[Finding]) -> list[Finding]:
    """Return the findings, each symptom as `info` right after the cause that explains it.

    A cause explains what began no earlier than itself, up to `SLACK`, and takes the severity of the worst finding that
    follows from it. Findings without an alarm explain nothing.
    """
    alarming = worst_first([f for f in findings if f.alarms])
    roots = [f for f in alarming if not any(explains(other, f) for other in alarming)]
    ordered = []
    for root in worst_first([_with_worst(root, alarming) for root in roots]):
        followers = [f for f in _following(root, alarming) if f not in roots]
        new = [f for f in followers if not any(f.kind == o.kind and f.layer == o.layer for o in (*ordered, root))]
        ordered += [root, *(_as_symptom(f, root) for f in new)]
    return ordered + [f for f in worst_first(findings) if not f.alarms]


def explains(cause: Finding, symptom: Finding) -> bool:
    """Return whether `symptom` follows from `cause`.

    Of two findings that explain each other, the cause is the earlier one; if both began on one step, the one that the
    other's kind yields to.
    """
    is_seen = CERTAINTY in cause.evidence  # in the code, by an inspector
    explained = (*KINDS[cause.kind].explains, *(SYMPTOMS if is_seen else ()))
    if cause is symptom or symptom.kind not in explained or not _may_cause(cause, symptom):
        return False
    if CERTAINTY in symptom.evidence and not (is_seen and symptom.kind in KINDS[cause.kind].explains):
        return False  # what was seen in the code follows from no statistic
    if cause.evidence.get(SLOWS) and symptom.evidence.get(SUFFICES):
        return False
    if symptom.kind == NONFINITE.name and stands_for_itself(symptom.evidence):
        return False
    if not is_seen and cause.kind in KINDS[symptom.kind].explains:
        if _begin_together(cause, symptom):
            return cause.kind in KINDS[symptom.kind].yields_to
        return cause.first_step < symptom.first_step
    return symptom.kind == NO_PROGRESS.name or cause.first_step <= symptom.first_step + SLACK


def _begin_together(one: Finding, other: Finding) -> bool:
    """Return whether two findings began on one step; units are counted over many samples, the first time late."""
    is_late = bool({one.kind, other.kind} & {DEAD_UNITS.name, SATURATION.name})
    return one.first_step == other.first_step or (is_late and max(one.first_step, other.first_step) <= SLACK)


def _may_cause(cause: Finding, symptom: Finding) -> bool:
    """Return whether `cause` is shown to precede and to suffice.

    A learning rate that is far from any usual one needs no other cause. An initialization explains an event, such as
    NaN, only within the first steps, and only if the signal grows.
    """
    if symptom.kind in (LR_TOO_LOW.name, LR_TOO_HIGH.name) and symptom.evidence.get(SUFFICES):
        return cause.kind not in STRUCTURAL
    if cause.kind == BAD_INIT.name and symptom.kind in EVENTS:
        return symptom.first_step < FIRST_STEPS and bool(cause.evidence.get(GROWS, True))
    return True


def excuse(findings: Sequence[Finding]) -> list[Finding]:
    """Return the findings; an unusual initialization is `info` where something else alone explains what went wrong.

    Its alarm rests on the loss, which a learning rate far from any usual one, Inf and NaN in the middle of a run, or a
    NaN that an operation makes whatever the weights are, would spoil from any initialization.
    """
    if not any(f.alarms and (f.evidence.get(SUFFICES) or _has_other_cause(f)) for f in findings):
        return [*findings]
    return [replace(f, severity=INFO) if f.kind == BAD_INIT.name else f for f in findings]


def _has_other_cause(finding: Finding) -> bool:
    if finding.kind != NONFINITE.name:
        return False
    return finding.first_step >= FIRST_STEPS or stands_for_itself(finding.evidence)


def _with_worst(root: Finding, findings: Sequence[Finding]) -> Finding:
    worst = max([root, *_following(root, findings)], key=lambda f: SEVERITIES.index(f.severity))
    return replace(root, severity=worst.severity)


def _following(root: Finding, findings: Sequence[Finding]) -> list[Finding]:
    """Return the findings that follow from `root`, directly or through others."""
    found: list[Finding] = []
    waiting = [root]
    while waiting:
        cause = waiting.pop()
        new = [f for f in findings if f is not root and f not in found and explains(cause, f)]
        found += new
        waiting += new
    return [f for f in findings if f in found]


def _as_symptom(finding: Finding, root: Finding) -> Finding:
    evidence = finding.evidence | {BECAUSE: root.kind, "severity_alone": finding.severity}
    return replace(finding, severity=INFO, evidence=evidence)
