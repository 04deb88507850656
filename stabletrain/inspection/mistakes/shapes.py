"""Outputs and targets of different shapes, which are broadcast against each other."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from stabletrain.inspection.inspector import Inspector, StepView
from stabletrain.inspection.mistakes import graph
from stabletrain.inspection.mistakes.cadence import is_inspected
from stabletrain.inspection.mistakes.graph import Node
from stabletrain.vocabulary.kinds import SHAPE_MISMATCH
from stabletrain.vocabulary.notice import CERTAIN, CERTAINTY, DETAIL, Notice

LOSSES = ("MseLoss", "SmoothL1Loss", "HuberLoss")  # they expand their arguments to a common shape
DIFFERENCES = ("Sub", "Rsub")
OF_DIFFERENCES = ("Pow", "Abs", "Mul", "LinalgVectorNorm", "Norm")  # what makes a difference an error
MAKING_ROOM = ("Unsqueeze", "View", "UnsafeView", "Reshape", "Expand", "Index", "Slice")  # broadcasting on purpose


class ShapeInspector(Inspector):
    """Looks in the graph of the loss for errors whose outputs were broadcast."""

    def inspect(self, view: StepView) -> list[Notice]:
        """Return the first error, from the loss on, whose outputs were broadcast."""
        if not isinstance(view.loss, Tensor) or not is_inspected(view.step):
            return []
        for node in graph.walk(view.loss):
            found = _expanded(node) if graph.name_of(node) in LOSSES else _broadcast(node)
            if found is not None:
                return [Notice(SHAPE_MISMATCH.name, view.step, view.step, evidence=_evidence(*found))]
        return []


def _expanded(node: Node) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Return the shape of the outputs before and after they were expanded for a loss."""
    child = node.next_functions[0][0] if node.next_functions else None
    if graph.name_of(child) != "Expand":
        return None
    inner = next(iter(graph.inputs_of(child)), None)
    before, after = graph.shape_of(inner), graph.shape_of(child)
    if before is None or after is None or math.prod(after) <= math.prod(before):
        return None
    return before, after


def _broadcast(node: Node) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Return the shapes of outputs (N, 1) or (N,) and of their difference (N, N) to a constant, N > 1."""
    if graph.name_of(node) not in OF_DIFFERENCES:
        return None
    difference = next(iter(graph.inputs_of(node)), None)
    if graph.name_of(difference) not in DIFFERENCES or len(graph.inputs_of(difference)) != 1:
        return None
    outputs = graph.inputs_of(difference)[0]
    if graph.name_of(outputs) == "Expand":  # by `l1_loss`, which is not one operation
        outputs = next(iter(graph.inputs_of(outputs)), None)
    before, after = graph.shape_of(outputs), graph.shape_of(difference)
    if before is None or after is None or graph.name_of(outputs) in MAKING_ROOM:
        return None
    many = after[0] if len(after) == 2 else 0
    if many > 1 and after == (many, many) and before in ((many, 1), (many,)):
        return before, after
    return None


def _evidence(before: tuple[int, ...], after: tuple[int, ...]) -> dict[str, Any]:
    targets = (after[-1],) if before[-1:] == (1,) else (after[0], 1)
    if len(after) != 2 or math.prod(before) != after[0]:
        targets = after
    detail = f"Outputs of shape {before} and targets of shape {targets} are broadcast to {after}."
    return {
        CERTAINTY: CERTAIN,
        "outputs": list(before),
        "targets": list(targets),
        "broadcast": list(after),
        DETAIL: detail,
    }
