"""What the doctor could not see of a run, and what its verdict is worth without it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stabletrain.diagnosis.observations import Observations
from stabletrain.vocabulary import metric_names as names
from stabletrain.vocabulary.finding import Finding
from stabletrain.vocabulary.kinds import LR_TOO_LOW, NO_PROGRESS
from stabletrain.vocabulary.signals import DELTA, GRADIENT, UPDATE

LOSS, GRADIENTS, UPDATES = "loss", "gradient", "update"
MIN_LOSSES = 5  # of fewer, no rule can tell a level from noise
# What is needed to call a run healthy: without a loss, nobody knows whether it learns; without a gradient, what reaches
# its layers. The size of the updates only adds to these.
NEEDED = frozenset({LOSS, GRADIENTS})


def find_unseen(observations: Observations) -> tuple[str, ...]:
    """Return what was not measured, of `loss`, `gradient` and `update`.

    A run of fewer than `MIN_LOSSES` steps has no more losses than steps, and is not missing any. Gradients that had
    been reset before they were measured were not seen either.
    """
    gradient = observations.rms.get(GRADIENT)
    num_measured = 0 if gradient is None else len(gradient.steps)
    unseen = []
    if _count_losses(observations) < min(MIN_LOSSES, max(num_measured, 1)):
        unseen.append(LOSS)
    if not num_measured or are_cleared(observations):
        unseen.append(GRADIENTS)
    if UPDATE not in observations.rms:
        unseen.append(UPDATES)
    return tuple(unseen)


def are_cleared(observations: Observations) -> bool:
    """Return whether every gradient was zero although gradients arrived at the layers' outputs."""
    gradients, deltas = observations.rms.get(GRADIENT), observations.rms.get(DELTA)
    if gradients is None or np.nan_to_num(gradients.values, nan=1.0).any():
        return False
    return deltas is not None and bool(np.nan_to_num(deltas.values).any())


def is_unknown(unseen: tuple[str, ...]) -> bool:
    """Return whether a run without an alarm cannot be called healthy, since too little was seen of it."""
    return bool(NEEDED & {*unseen})


def supported(findings: Sequence[Finding], unseen: tuple[str, ...]) -> list[Finding]:
    """Return the findings that what was not seen does not call into question.

    Where no gradient was seen, the loop may show its steps too late: that it does not learn need not be so.
    """
    return [f for f in findings if GRADIENTS not in unseen or f.kind not in (LR_TOO_LOW.name, NO_PROGRESS.name)]


def describe_unseen(unseen: tuple[str, ...]) -> str | None:
    """Return one sentence about what was not seen; None if everything was."""
    if not unseen:
        return None
    words = {LOSS: "no loss", GRADIENTS: "no gradient", UPDATES: "no update of the weights"}
    listed = [words[x] for x in unseen]
    return f"not seen: {', '.join(listed)}; the verdict does not cover what only these show"


def _count_losses(observations: Observations) -> int:
    """Return how many losses were seen; what counts is that they are known, finite or not."""
    finite, others = (observations.scalars.get(name) for name in (names.TRAIN_LOSS, names.TRAIN_NONFINITE))
    num_finite = 0 if finite is None else len(finite.steps)
    return num_finite + (0 if others is None or not len(others.values) else int(others.values[-1]))
