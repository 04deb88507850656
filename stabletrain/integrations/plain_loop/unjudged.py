"""What the doctor was not shown: why it gives no verdict, and what it could not judge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from stabletrain.diagnosis.observations import Observations
from stabletrain.diagnosis.progress import progress_of
from stabletrain.vocabulary import metric_names as names
from stabletrain.vocabulary.finding import Finding
from stabletrain.vocabulary.kinds import LR_TOO_LOW, NO_PROGRESS
from stabletrain.vocabulary.signals import DELTA, GRADIENT, UPDATE


class Unjudged(NamedTuple):
    """Something that could not be judged, and the argument that would allow it."""

    what: str
    argument: str

    def __str__(self) -> str:
        return f"{self.what} ({self.argument})"


def why_unknown(observations: Observations, num_steps: int) -> str | None:
    """Return why the absence of findings means nothing; None if it means that the training is healthy.

    Args:
        observations: What was measured.
        num_steps: Calls of `step` so far.
    """
    gradients, losses = observations.rms.get(GRADIENT), observations.scalars.get(names.TRAIN_LOSS)
    if num_steps == 0:
        return "step() was never called"
    if gradients is None:
        return "no gradient was seen: call step() after backward() and before zero_grad()"
    if _is_cleared(observations):
        return "every gradient was zero: call step() after backward() and before zero_grad()"
    if losses is None and names.TRAIN_NONFINITE not in observations.scalars:
        return "no loss was seen: call step(loss)"
    return None


def trusted(findings: Sequence[Finding], observations: Observations) -> list[Finding]:
    """Return the findings that do not follow from gradients which were shown too late, or not at all."""
    is_shown = GRADIENT in observations.rms and not _is_cleared(observations)
    return [f for f in findings if is_shown or f.kind not in (LR_TOO_LOW.name, NO_PROGRESS.name)]


def _is_cleared(observations: Observations) -> bool:
    """Return whether every gradient was zero although gradients arrived at the layers' outputs."""
    gradients, deltas = observations.rms.get(GRADIENT), observations.rms.get(DELTA)
    if gradients is None or np.nan_to_num(gradients.values, nan=1.0).any():
        return False
    return deltas is not None and bool(np.nan_to_num(deltas.values).any())


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
