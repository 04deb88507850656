"""The verdict on a run: the same on its page, in a comparison and in MLflow."""

from __future__ import annotations

import pytest

from stabletrain.record.run_folder import RunFolder
from stabletrain.report.compare import render_comparison
from stabletrain.report.page import render_report
from stabletrain.report.run_verdict import judge
from stabletrain.tracking.contents.description import describe
from stabletrain.vocabulary.finding import Finding
from stabletrain.vocabulary.statuses import FINISHED, RUNNING

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


@pytest.mark.parametrize(
    ("status", "verdict", "findings", "heading", "in_mlflow"),
    [
        (RUNNING, "healthy", [], "… No verdict yet", "none yet"),
        (RUNNING, None, [NOTE], "… No verdict yet", "none yet"),
        (RUNNING, "healthy", [CRITICAL], "✖ Vanishing gradients", "⚠️ vanishing"),
        (FINISHED, "healthy", [NOTE], "✔ Healthy", "✅ healthy"),
        (FINISHED, "vanishing", [CRITICAL], "✖ Vanishing gradients", "⚠️ vanishing"),
    ],
)
def test_all_pages_give_the_same_verdict(tmp_path, status, verdict, findings, heading, in_mlflow):
    folder = RunFolder(tmp_path / "run")
    folder.events.mkdir(parents=True)
    folder.write_findings(findings)
    folder.update_summary(status=status, verdict=verdict)
    assert f"<h1>{heading}</h1>" in render_report(folder)
    assert f">{heading}</td>" in render_comparison([folder], tmp_path)
    assert describe(folder.read_summary(), findings, {}).splitlines()[0] == f"### Verdict: {in_mlflow}"
