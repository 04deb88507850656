"""Texts of the report: headings and explanations of verdicts and statuses, and numbers formatted for people."""

from __future__ import annotations

import math
from typing import Any

from stabletrain.vocabulary import statuses
from stabletrain.vocabulary.finding import HEALTHY

NO_VERDICT = "none"
RUN_FAILED = "run_failed"

VERDICTS: dict[str, tuple[str, str]] = {
    HEALTHY: ("Healthy", "Gradients reach every layer at a usable magnitude, and nothing alarming was found."),
    "vanishing": (
        "Vanishing gradients",
        "Gradients shrink on the way back from the output, so that the layers near the input hardly learn.",
    ),
    "exploding": (
        "Exploding gradients",
        "Gradients grow on the way back from the output, so that a single step can ruin the weights.",
    ),
    "time_vanishing": (
        "Gradients vanish through time",
        "Gradients shrink from time step to time step, so that the network forgets the beginning of a sequence.",
    ),
    "time_exploding": (
        "Gradients explode through time",
        "Gradients grow from time step to time step, so that long sequences make training unstable.",
    ),
    "nonfinite": (
        "Non-finite values (Inf or NaN)",
        "Some gradients were Inf or NaN; a step with them would have destroyed the weights.",
    ),
    "dead_units": ("Dead units", "Many units output zero for every input, so that no gradient passes through them."),
    "saturation": (
        "Saturated units",
        "Many units are in the flat regions of their activation function, where its gradient is close to zero.",
    ),
    "bad_init": (
        "Unsuitable initialization",
        "From the first steps on, the layers differ widely in scale: the initialization does not suit the network.",
    ),
    "loss_spike": ("Loss spikes", "The loss jumped far above its recent level and stayed there for several steps."),
    "oscillation": ("Oscillation", "The loss goes up and down instead of converging."),
    "no_progress": ("No progress", "The loss has not fallen below chance level."),
    "lr_too_high": ("Learning rate too high", "The updates are too large relative to the weights."),
    "lr_too_low": ("Learning rate too low", "The updates are so small that the weights hardly change."),
    "clip_ineffective": ("Clipping without effect", "The clipping in use does not limit the gradient."),
    "clip_always": (
        "Clipping on every step",
        "Nearly every step is clipped, so that the threshold rather than the gradient sets the size of the steps.",
    ),
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


def steps(first: int, last: int) -> str:
    """Return `step 5` or `steps 5–90`."""
    return f"step {first:,}" if first == last else f"steps {first:,}–{last:,}"
