"""What the page says, in words that a student understands."""

from __future__ import annotations

import math
from typing import Any

from stabletrain.vocabulary import statuses
from stabletrain.vocabulary.finding import HEALTHY

NO_VERDICT = "none"
RUN_FAILED = "run_failed"

VERDICTS: dict[str, tuple[str, str]] = {
    HEALTHY: ("Healthy", "The gradient reaches every layer in a usable size, and nothing alarming was seen."),
    "vanishing": (
        "Vanishing gradients",
        "The gradient shrinks on its way back from the output, so that the layers near the input hardly learn.",
    ),
    "exploding": (
        "Exploding gradients",
        "The gradient grows on its way back from the output, so that one step can throw the weights far off.",
    ),
    "time_vanishing": (
        "Gradients vanish through time",
        "The gradient shrinks from time step to time step, so that the network forgets what came early in a sequence.",
    ),
    "time_exploding": (
        "Gradients explode through time",
        "The gradient grows from time step to time step, so that long sequences upset the training.",
    ),
    "nonfinite": (
        "Numbers broke down (Inf or NaN)",
        "Some gradients were no longer finite numbers; a step with them would have destroyed the weights.",
    ),
    "dead_units": ("Dead units", "Many units answer zero to every input, so that no gradient passes through them."),
    "saturation": (
        "Saturated units",
        "Many units sit on the flat ends of their activation function, where the gradient is next to zero.",
    ),
    "bad_init": (
        "Unlucky start",
        "From the first steps on, the layers differ widely in scale: the initialisation does not fit the network.",
    ),
    "loss_spike": ("Loss spikes", "The loss jumped far above its recent level, and stayed there for several steps."),
    "oscillation": ("Oscillation", "The training swings up and down instead of settling."),
    "no_progress": ("No progress", "The loss has not fallen below what guessing would reach."),
    "lr_too_high": ("Learning rate too high", "The steps are too large for the weights they change."),
    "lr_too_low": ("Learning rate too low", "The steps are so small that the weights hardly change."),
    "clip_ineffective": ("Clipping without effect", "The clipping in use does not hold the gradient back."),
    "clip_always": (
        "Clipping on every step",
        "Nearly every step is clipped, so that the clipping and not the loss sets the size of the steps.",
    ),
    RUN_FAILED: (
        "The run failed",
        "It broke off before its end, and not for a reason that the doctor knows: see what the command printed.",
    ),
    NO_VERDICT: ("No verdict yet", "The doctor has not judged this run."),
}

STATUSES: dict[str, str] = {
    statuses.RUNNING: "Still running when this page was made, or killed since: what follows is what it had recorded.",
    statuses.FINISHED: "The run came to its end.",
    statuses.FAILED: "The run failed before its end: what follows is what it had recorded.",
    statuses.STOPPED: "Stopped by the stability policy, before more harm was done.",
    statuses.TERMINATED: "Stopped on request after saving; it can be resumed.",
}

SEVERITY_SIGNS = {"critical": "✖", "warning": "▲", "info": "●"}
NO_NUMBER = "—"


def verdict_words(verdict: str) -> tuple[str, str]:
    """Return a heading and a sentence for a verdict; an unknown one stands for itself."""
    return VERDICTS.get(verdict, (verdict.replace("_", " ").capitalize(), ""))


def number(value: Any) -> str:
    """Return a number as a person reads it; what is none stands as it is."""
    if value is None:
        return NO_NUMBER
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if math.isfinite(value) else "not finite"


def duration(seconds: Any) -> str:
    """Return a time span: 12 s, 3 min 20 s, 2 h 05 min."""
    if not isinstance(seconds, int | float) or isinstance(seconds, bool) or not math.isfinite(seconds):
        return NO_NUMBER
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def percent(share: Any) -> str:
    """Return a share as a percentage."""
    return f"{share:.1%}" if isinstance(share, int | float) and math.isfinite(share) else NO_NUMBER


def steps(first: int, last: int) -> str:
    """Return `step 5` or `steps 5–90`."""
    return f"step {first:,}" if first == last else f"steps {first:,}–{last:,}"
