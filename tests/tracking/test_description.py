"""The description of a run in MLflow: its order, its length, and escaping."""

from __future__ import annotations

from stabletrain.tracking.contents.description import MAX_LENGTH, describe
from stabletrain.vocabulary.finding import BECAUSE, Finding

SUMMARY = {"verdict": "vanishing", "metrics": {"val/loss": 2.3025851, "val/accuracy": 0.1}}
CAUSE = Finding("vanishing", "critical", "L00.ab", 0, 389, {}, "No *learning*.", ["activation=relu", "init=he"])
SYMPTOM = Finding("no_progress", "info", None, 0, 389, {BECAUSE: "vanishing"})


def test_the_verdict_comes_first_then_why_then_numbers_and_the_command():
    assert describe(SUMMARY, [CAUSE, SYMPTOM], {"command": "train it"}, "It ended.") == (
        "### Verdict: ⚠️ vanishing\n\n"
        "It ended.\n\n"
        "**Findings**\n\n"
        "- **critical: vanishing** in `L00.ab`, steps 0–389. No \\*learning\\*. Try `activation=relu`, `init=he`.\n"
        "    - explains no_progress\n\n"
        "| metric | value |\n|---|---|\n| val/loss | 2.3026 |\n| val/accuracy | 0.1 |\n\n"
        "**Command**\n\n    train it"
    )


def test_a_healthy_run_has_its_numbers_next():
    text = describe({"verdict": "healthy", "metrics": {"a|b": 1}}, [], {})
    assert text == "### Verdict: ✅ healthy\n\n| metric | value |\n|---|---|\n| a\\|b | 1 |"


def test_without_a_verdict():
    assert describe({}, [], {}) == "### Verdict: none yet"


def test_it_fits_into_a_tag():
    found = [Finding("vanishing", "critical", f"L{i}.{'x' * 1000}", i, i, {}, "No.") for i in range(20)]
    text = describe(SUMMARY, found, {})
    assert len(text) <= MAX_LENGTH
    assert text.endswith("…")
    short = [Finding("vanishing", "critical", f"L{i}", i, i, {}, "No.") for i in range(20)]
    assert "- and 8 more in `findings.json`" in describe(SUMMARY, short, {})
