"""Reads the outputs and targets of a loss from its autograd graph, just before the backward pass frees them.

The functions of `torch.nn.functional` save both. Names of nodes and of what they save are internals of torch (checked
with torch 2.13.0).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from stabletrain.inspection.mistakes import graph
from stabletrain.inspection.mistakes.graph import Node

CLASSES, BINARY, REAL = "classes", "binary", "real"
NLL = ("NllLoss", "NllLoss2D")
BCE, BCE_LOGITS = "BinaryCrossEntropy", "BinaryCrossEntropyWithLogits"
FUNCTIONS = {  # by the node's name
    **dict.fromkeys(NLL, "cross_entropy"),
    BCE_LOGITS: "binary_cross_entropy_with_logits",
    BCE: "binary_cross_entropy",
    "MseLoss": "mse_loss",
    "SmoothL1Loss": "smooth_l1_loss",
    "HuberLoss": "huber_loss",
}
MAX_NODES = 64  # of the graph, those nearest to the loss
MAX_NUMBERS = 2**18  # outputs with more are left out


class Term(NamedTuple):
    """A loss function, or one of several that are added.

    Attributes:
        kind: `classes`, `binary` or `real`.
        outputs: (n, …) what it was given: log-probabilities (n, classes, …), logits or probabilities, or numbers.
        targets: (n, …) class indices, or numbers of the shape of the outputs.
        function: Name of the function.
    """

    kind: str
    outputs: Tensor
    targets: Tensor
    function: str


def terms_of(loss: Tensor) -> list[Term]:
    """Return the terms of a loss that has not been differentiated yet, those nearest to it first."""
    found = []
    for count, node in enumerate(graph.walk(loss)):
        if count >= MAX_NODES:
            break
        if graph.name_of(node) in FUNCTIONS:
            term = _read(node)
            if term is not None:
                found.append(term)
    return found


@torch.no_grad()
def _read(node: Node) -> Term | None:
    name = graph.name_of(node)
    try:
        outputs, targets = node._saved_self, node._saved_target
    except Exception:  # freed, or changed in place since, or packed by hooks of the user's
        return None
    if outputs.numel() > MAX_NUMBERS or not outputs.dim():
        return None
    function = FUNCTIONS[name]
    if name in NLL:
        is_usual = outputs.dim() > 1 and targets.shape == (len(outputs), *outputs.shape[2:])
        return Term(CLASSES, outputs.detach(), targets.detach(), function) if is_usual else None
    if outputs.shape != targets.shape:
        return None
    return Term(BINARY if name in (BCE, BCE_LOGITS) else REAL, outputs.detach(), targets.detach(), function)
