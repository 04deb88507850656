"""Reads the outputs and targets of a loss from its autograd graph, just before the backward pass frees them.

The functions of `torch.nn.functional` save both. Names of nodes and of what they save are internals of torch (checked
with torch 2.13.0).
"""

from __future__ import annotations

import itertools
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
        is_alone: Whether the loss is this term, up to a factor.
    """

    kind: str
    outputs: Tensor
    targets: Tensor
    function: str
    is_alone: bool = True


def terms_of(loss: Tensor) -> list[Term]:
    """Return the terms of a loss that has not been differentiated yet, those nearest to it first."""
    nodes = [node for node in itertools.islice(graph.walk(loss), MAX_NODES) if graph.name_of(node) in FUNCTIONS]
    alone = _below_factors(loss.grad_fn)
    found = [(node, _read(node)) for node in nodes]
    return [term._replace(is_alone=node is alone) for node, term in found if term is not None]


def _below_factors(node: Node) -> Node | None:
    """Return the nearest operation that does more than to multiply by a constant."""
    while graph.name_of(node) in ("Mul", "Div", *graph.SAME_VALUES) and len(graph.inputs_of(node)) == 1:
        node = graph.inputs_of(node)[0]
    return node


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
