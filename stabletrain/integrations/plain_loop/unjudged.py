"""What the doctor was not shown: why it gives no verdict, and what it could not judge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from stabletrain.diagnosis.coverage import GRADIENTS, LOSS, are_cleared, find_unseen
from stabletrain.diagnosis.observations import Observations
from stabletrain.diagnosis.progress import progress_of
from stabletrain.vocabulary import metric_names as names
from stabletrain.vocabulary.signals import UPDATE


class Unjudged(NamedTuple):
    """Something that could not be judged, and the argument that would allow it."""

    what: str
    argument: str

    def __str__(self) -> str:
        return f"{self.what} ({self.argument})"


def why_unknown(observations: Observations, num_steps: int) -> str | None:
    """Return why the absence of findings means nothing, and what to call; None if it means that training is healthy.

    Args:
        observations: What was measured.
        num_steps: Calls of `step` so far.
    """
    if num_steps == 0:
        return "step() was never called"
    unseen = find_unseen(observations)
    if GRADIENTS in unseen:
        what = "every gradient was zero" if are_cleared(observations) else "no gradient was seen"
        return f"{what}: call step() after backward() and before zero_grad()"
    if LOSS in unseen:
        what = "too few losses were seen" if names.TRAIN_LOSS in observations.scalars else "no loss was seen"
        return f"{what}: call step(loss)"
    return None


def unjudged(observations: Observations, *, num_steps: int, is_planned: bool, is_recurrent: bool) -> list[Unjudged]:
    """Return what could not be judged.

    Args:
        observations: What was measured.
        num_steps: Calls of `step` so far.
        is_planned: Whether the number of steps was given.
        is_recurrent: Whether the model has recurrent layers.
    """
    found = []
    progress = progress_of(observations)
    if not is_planned:
        found.append(Unjudged(f"what comes after {num_steps:,} steps", "num_steps=…"))
    if progress is not None and not progress.is_measure:
        found.append(Unjudged("whether it learns, which this loss does not show", "validate(accuracy=…)"))
    elif observations.about.prior_loss is None:
        found.append(Unjudged("chance level, for which the first loss stands", "prior_loss=…"))
    if UPDATE not in observations.rms:
        found.append(Unjudged("the size of the steps, since no optimizer was seen", "optimizer=…"))
    if is_recurrent and not observations.time:
        found.append(Unjudged("the gradient through time", "follow_time(…)"))
    return found


def in_one_line(parts: Sequence[Unjudged]) -> list[str]:
    """Return the line of the report; no line if everything could be judged."""
    return [f"  not judged: {'; '.join(map(str, parts))}"] if parts else []
