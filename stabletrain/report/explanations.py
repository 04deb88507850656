"""Texts of the report: headings and explanations of verdicts and statuses, and numbers formatted for people."""

from __future__ import annotations

import math
from typing import Any

from stabletrain.vocabulary import statuses
from stabletrain.vocabulary.finding import HEALTHY, UNKNOWN
from stabletrain.vocabulary.kinds import KINDS

NO_VERDICT = "none"
RUN_FAILED = "run_failed"

VERDICTS: dict[str, tuple[str, str]] = {
    HEALTHY: ("Healthy", "Gradients reach every layer at a usable magnitude, and nothing alarming was found."),
    UNKNOWN: ("Unknown", "Nothing alarming was found, but too little was measured to call the run healthy."),
    **{kind.name: (kind.heading, kind.meaning) for kind in KINDS.values()},
    RUN_FAILED: (
        "The run failed",
        "It stopped before its end, for a reason that the doctor did not find: see the output of the command.",
    ),
    NO_VERDICT: ("No verdict yet", "There is no diagnosis of this run."),
}

STATUSES: dict[str, str] = {
    statuses.RUNNING: "Still running when this page was written, or killed since. The page shows what was recorded.",
    statuses.FINISHED: "The run finished.",
    statuses.FAILED: "The run failed before its end. The page shows what was recorded.",
    statuses.STOPPED: "Stopped by the stability policy.",
    statuses.TERMINATED: "Stopped on request, after saving; the run can be resumed.",
}

SEVERITY_SIGNS = {"critical": "✖", "warning": "▲", "info": "●"}
NO_NUMBER = "—"


def verdict_words(verdict: str) -> tuple[str, str]:
    """Return the heading and the explanation of a verdict; an unknown verdict is its own heading."""
    return VERDICTS.get(verdict, (verdict.replace("_", " ").capitalize(), ""))


def number(value: Any) -> str:
    """Format a number for people; other values are returned as text."""
    if value is None:
        return NO_NUMBER
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if math.isfinite(value) else "not finite"


def duration(seconds: Any) -> str:
    """Format a duration: 12 s, 3 min 20 s, 2 h 05 min."""
    if not isinstance(seconds, int | float) or isinstance(seconds, bool) or not math.isfinite(seconds):
        return NO_NUMBER
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def percent(share: Any) -> str:
    """Format a fraction as a percentage."""
    return f"{share:.1%}" if isinstance(share, int | float) and math.isfinite(share) else NO_NUMBER
