"""What a run's pages call it."""

from __future__ import annotations

import pytest

from stabletrain.report.run_verdict import judge
from stabletrain.vocabulary.finding import Finding

CRITICAL = Finding("vanishing", "critical", None, 0, 9, {})
NOTE = Finding("vanishing", "info", None, 0, 9, {})


@pytest.mark.parametrize(
    ("status", "verdict", "findings", "expected"),
    [
        ("finished", "healthy", [NOTE], ("healthy", "good")),
        ("finished", "vanishing", [CRITICAL], ("vanishing", "critical")),
        ("finished", "vanishing", [], ("vanishing", "warning")),
        ("running", "healthy", [], ("none", "")),
        ("running", None, [CRITICAL], ("vanishing", "critical")),
        ("failed", "healthy", [], ("run_failed", "warning")),
        ("failed", None, [], ("run_failed", "warning")),
        ("failed", "vanishing", [NOTE, CRITICAL], ("vanishing", "critical")),
        (None, None, [], ("none", "")),
    ],
)
def test_a_run_is_called_by_its_verdict_and_how_it_ended(status, verdict, findings, expected):
    judged = judge({"status": status, "verdict": verdict}, findings)
    assert (judged.verdict, judged.mood) == expected
