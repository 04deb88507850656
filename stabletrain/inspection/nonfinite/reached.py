"""Which calls of the model the loss depends on: a validation between two steps has no part in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stabletrain.inspection.nonfinite.loss_part import LossPart
from stabletrain.inspection.nonfinite.model_call import ModelCall

MAX_NODES = 100_000  # of the graph; if it is larger, every call counts


def reaching(calls: Sequence[ModelCall], losses: Sequence[LossPart]) -> list[ModelCall]:
    """Return the calls whose outputs reach a loss in autograd's graph.

    A call whose outputs have no graph counts, such as that of a frozen model that makes the targets; so does every call
    if no loss is known.
    """
    nodes: set[Any] = {loss.root for loss in losses if loss.root is not None}
    waiting = [*nodes]
    while waiting and len(nodes) < MAX_NODES:
        for following, _ in waiting.pop().next_functions:
            if following is not None and following not in nodes:
                nodes.add(following)
                waiting.append(following)
    if not nodes or waiting:
        return [*calls]
    return [call for call in calls if not call.ends or any(node in nodes for node in call.ends)]
