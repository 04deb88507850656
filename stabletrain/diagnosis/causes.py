"""Cause before symptom: one root finding, with what follows from it listed under it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from stabletrain.vocabulary.finding import BECAUSE, INFO, SEVERITIES, Finding, worst_first

SLACK = 20  # steps by which a symptom may be seen before its cause: looks come every 10

EXPLAINS: dict[str, tuple[str, ...]] = {
    "bad_init": (
        *("saturation", "dead_units", "vanishing", "exploding", "time_vanishing", "time_exploding", "lr_too_high"),
        *("lr_too_low", "clip_ineffective", "nonfinite", "loss_spike", "oscillation", "no_progress", "clip_always"),
    ),
    "time_exploding": (
        *("exploding", "lr_too_high", "saturation", "clip_ineffective", "nonfinite", "loss_spike"),
        *("oscillation", "no_progress", "clip_always"),
    ),
    "lr_too_high": (
        *("dead_units", "saturation", "vanishing", "time_vanishing", "exploding", "time_exploding", "nonfinite"),
        *("loss_spike", "oscillation", "no_progress", "clip_always", "lr_too_low"),
    ),
    "saturation": ("vanishing", "time_vanishing", "exploding", "lr_too_low", "oscillation", "no_progress"),
    "dead_units": ("vanishing", "time_vanishing", "lr_too_low", "oscillation", "no_progress"),
    "exploding": (
        "saturation",
        "dead_units",
        "nonfinite",
        "clip_ineffective",
        "loss_spike",
        "oscillation",
        "no_progress",
        "clip_always",
    ),
    "time_vanishing": ("vanishing", "lr_too_low", "no_progress"),
    "vanishing": ("lr_too_low", "time_vanishing", "no_progress"),
    "clip_always": ("lr_too_low", "no_progress"),
    "loss_spike": ("nonfinite", "oscillation", "no_progress"),
    "nonfinite": ("no_progress", "loss_spike"),
    "lr_too_low": ("no_progress",),
    "oscillation": ("no_progress",),
}


def order_by_cause(findings: Sequence[Finding]) -> list[Finding]:
    """Return the findings, each symptom as information right after the cause that explains it.

    A cause explains what began no earlier than itself, looks being apart. A cause is as severe as the worst of what
    follows from it. Findings that harm nothing explain nothing.
    """
    alarming = worst_first([f for f in findings if f.alarms])
    roots = [f for f in alarming if not any(explains(other, f) for other in alarming)]
    ordered = []
    for root in worst_first([_with_worst(root, alarming) for root in roots]):
        followers = [f for f in _following(root, alarming) if f not in roots]
        new = [f for f in followers if not any(f.kind == o.kind and f.layer == o.layer for o in ordered)]
        ordered += [root, *(_as_symptom(f, root) for f in new)]
    return ordered + [f for f in worst_first(findings) if not f.alarms]


def explains(cause: Finding, symptom: Finding) -> bool:
    """Whether `symptom` follows from `cause`; of two that explain each other the earlier one, and the listed first."""
    if cause is symptom or symptom.kind not in EXPLAINS.get(cause.kind, ()):
        return False
    if cause.kind in EXPLAINS.get(symptom.kind, ()):
        order = list(EXPLAINS)
        mine, other = (cause.first_step, order.index(cause.kind)), (symptom.first_step, order.index(symptom.kind))
        return mine < other
    return symptom.kind == "no_progress" or cause.first_step <= symptom.first_step + SLACK


def _with_worst(root: Finding, findings: Sequence[Finding]) -> Finding:
    worst = max([root, *_following(root, findings)], key=lambda f: SEVERITIES.index(f.severity))
    return replace(root, severity=worst.severity)


def _following(root: Finding, findings: Sequence[Finding]) -> list[Finding]:
    """Return what follows from a finding, and what follows from that."""
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
