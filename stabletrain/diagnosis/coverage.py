"""What the doctor could not see of a run, and what its verdict is worth without it."""

from __future__ import annotations

from stabletrain.diagnosis.observations import Observations
from stabletrain.vocabulary import metric_names as names
from stabletrain.vocabulary.signals import GRADIENT, UPDATE

LOSS, GRADIENTS, UPDATES = "loss", "gradient", "update"
MIN_LOSSES = 5  # of fewer, no rule can tell a level from noise
# What is needed to call a run healthy: without a loss, nobody knows whether it learns; without a gradient, what reaches
# its layers. The size of the updates only adds to these.
NEEDED = frozenset({LOSS, GRADIENTS})


def find_unseen(observations: Observations) -> tuple[str, ...]:
    """Return what was not measured, of `loss`, `gradient` and `update`.

    A run of fewer than `MIN_LOSSES` steps has no more losses than steps, and is not missing any.
    """
    losses = observations.scalars.get(names.TRAIN_LOSS)
    num_losses = 0 if losses is None else len(losses.steps)
    gradient = observations.rms.get(GRADIENT)
    num_measured = 0 if gradient is None else len(gradient.steps)
    unseen = []
    if num_losses < min(MIN_LOSSES, max(num_measured, 1)):
        unseen.append(LOSS)
    if not num_measured:
        unseen.append(GRADIENTS)
    if UPDATE not in observations.rms:
        unseen.append(UPDATES)
    return tuple(unseen)


def is_unknown(unseen: tuple[str, ...]) -> bool:
    """Return whether a run without an alarm cannot be called healthy, since too little was seen of it."""
    return bool(NEEDED & {*unseen})


def describe_unseen(unseen: tuple[str, ...]) -> str | None:
    """Return one sentence about what was not seen; None if everything was."""
    if not unseen:
        return None
    words = {LOSS: "no loss", GRADIENTS: "no gradient", UPDATES: "no update of the weights"}
    listed = [words[x] for x in unseen]
    return f"not seen: {', '.join(listed)}; the verdict does not cover what only these show"
