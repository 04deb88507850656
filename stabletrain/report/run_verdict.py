"""The verdict on a run, also while it trains or after it broke off: one function for all pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from stabletrain.report import explanations as words
from stabletrain.vocabulary.finding import HEALTHY, UNKNOWN, Finding, verdict_of, worst_first
from stabletrain.vocabulary.statuses import FAILED, RUNNING


class Judged(NamedTuple):
    """A verdict as a page shows it.

    Attributes:
        verdict: `healthy`, a finding's kind, or one of the report's own: `none` and `run_failed`.
        sign: Symbol in front of it.
        mood: `good`, a severity, or "" while there is no verdict.
        worst: The finding that the verdict names, if it is among the findings.
    """

    verdict: str
    sign: str
    mood: str
    worst: Finding | None


def verdict_so_far(summary: Mapping[str, Any], findings: Sequence[Finding]) -> str | None:
    """Return `healthy` or a finding's kind; None if there is no verdict yet.

    A run that trains, or that ended without writing a verdict, is judged by its findings so far: their absence does
    not make it healthy.

    Args:
        summary: Content of `summary.json`.
        findings: Findings of the run.
    """
    verdict = summary.get("verdict")
    if isinstance(verdict, str) and verdict and summary.get("status") != RUNNING:
        return verdict
    verdict = verdict_of(findings)
    return None if verdict == HEALTHY else verdict


def judge(summary: Mapping[str, Any], findings: Sequence[Finding]) -> Judged:
    """Return the verdict on a run with its sign and color.

    Args:
        summary: Content of `summary.json`.
        findings: Findings of the run.
    """
    verdict = verdict_so_far(summary, findings)
    if summary.get("status") == FAILED and verdict in (HEALTHY, UNKNOWN, None):
        verdict = words.RUN_FAILED
    if verdict is None:
        return Judged(words.NO_VERDICT, "…", "", None)
    if verdict == HEALTHY:
        return Judged(HEALTHY, "✔", "good", None)
    if verdict == UNKNOWN:
        return Judged(UNKNOWN, "?", "", None)
    worst = next((f for f in worst_first(findings) if f.kind == verdict and f.alarms), None)
    mood = worst.severity if worst else "warning"
    return Judged(verdict, words.SEVERITY_SIGNS[mood], mood, worst)
