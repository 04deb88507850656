"""The verdict on a run as its pages show it, also of one that goes on or broke off."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from stabletrain.report import explanations as words
from stabletrain.vocabulary.finding import HEALTHY, Finding, verdict_of, worst_first
from stabletrain.vocabulary.statuses import FAILED, RUNNING


class Judged(NamedTuple):
    """Verdict, the sign before it, its mood (`good`, a severity, or none), and the finding that it stands for."""

    verdict: str
    sign: str
    mood: str
    worst: Finding | None


def judge(summary: Mapping[str, Any], findings: Sequence[Finding]) -> Judged:
    """Return what is said of a run.

    While it goes on the findings so far speak, and their absence proves nothing.
    """
    status, verdict = summary.get("status"), summary.get("verdict")
    if not verdict or status == RUNNING:
        verdict = verdict_of(findings)
        verdict = words.NO_VERDICT if verdict == HEALTHY else verdict
    if status == FAILED and verdict in (HEALTHY, words.NO_VERDICT):
        verdict = words.RUN_FAILED
    if verdict == HEALTHY:
        return Judged(HEALTHY, "✔", "good", None)
    if verdict == words.NO_VERDICT:
        return Judged(str(verdict), "…", "", None)
    worst = next((f for f in worst_first(findings) if f.kind == verdict and f.alarms), None)
    mood = worst.severity if worst else "warning"
    return Judged(str(verdict), words.SEVERITY_SIGNS[mood], mood, worst)
