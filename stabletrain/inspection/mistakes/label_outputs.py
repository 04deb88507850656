"""Outputs that do not fit the kind of the labels: one of several classes, several at once, or yes and no."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from stabletrain.inspection.inspector import Inspector, StepView
from stabletrain.inspection.mistakes import graph
from stabletrain.inspection.mistakes.cadence import FIRST
from stabletrain.inspection.mistakes.graph import Node
from stabletrain.inspection.mistakes.output_activation import LINEAR, NAMES
from stabletrain.torch_tools.backward_calls import ignore_backward, observe_backward
from stabletrain.vocabulary.kinds import OUTPUT_ACTIVATION
from stabletrain.vocabulary.notice import CERTAIN, CERTAINTY, DETAIL, POSSIBLE, REMEDY, SLOWS, Notice

BCE, MSE = "BinaryCrossEntropy", "MseLoss"
FUNCTIONS = {BCE: "binary_cross_entropy", MSE: "mse_loss"}
NO_PROBABILITIES = (*LINEAR, "Relu", "LeakyRelu", "Tanh", "Elu")
MAX_NODES = 64  # of the graph, those nearest to the loss
MAX_NUMBERS = 2**18
MAX_CLASSES = 100  # … of one example: those of a recommender are counts of many items, which a softmax fits
SLACK = 0.01
OUTSIDE = 0.1  # share of the examples
LOGITS = "torch.nn.functional.binary_cross_entropy_with_logits"
CLASSES = "torch.nn.functional.cross_entropy(model(x), y)"


class Given(NamedTuple):
    """What a loss compares.

    Attributes:
        loss: Name of the operation; `LogSoftmax` for a cross entropy with probabilities, `Log` for one by hand.
        activation: Name of the operation that made the outputs.
        targets: What they are compared with.
    """

    loss: str
    activation: str
    targets: Tensor


class LabelOutputInspector(Inspector):
    """Compares the last activation with the targets, which losses save until the backward pass frees them."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self._found: dict[str, Any] | None = None
        self._is_done = graph.is_compiled(model)

    def expect(self, step: int) -> None:
        """Look at the losses of the first steps."""
        self._found = None
        if step == 0 and not self._is_done:
            observe_backward(self.before_backward)
        elif step >= FIRST:
            self.detach()

    def before_backward(self, loss: Tensor) -> None:
        """Read the targets of a loss."""
        self._found = next((found for given in given_to(loss) if (found := _judge(given))), None)

    def inspect(self, view: StepView) -> list[Notice]:
        """Return outputs that do not fit the labels."""
        found, self._found = self._found, None
        return [Notice(OUTPUT_ACTIVATION.name, view.step, view.step, evidence=found)] if found else []

    def detach(self) -> None:
        """Remove all hooks."""
        self._is_done = True
        ignore_backward(self.before_backward)


def given_to(loss: Tensor) -> list[Given]:
    """Return what a loss that has not been differentiated yet compares, those nearest to it first."""
    nodes = [*itertools.islice(graph.walk(loss), MAX_NODES)]
    sources = {id(_source(node)): node for node in nodes if graph.name_of(node) == "Log" and _is_complement(node)}
    found = []
    for node in nodes:
        name, below = graph.name_of(node), graph.only_input(node)
        if name in FUNCTIONS:
            found.append(Given(name, graph.name_of(below), _saved(node, "target")))
        elif name == "Mul" and graph.name_of(below) == "LogSoftmax" and len(graph.inputs_of(node)) == 1:
            found.append(Given("LogSoftmax", "", _saved(node, "other", "self")))
        elif name == "Mul" and len(graph.inputs_of(node)) == 1:
            log = graph.skip_reshapes(graph.inputs_of(node)[0])
            if graph.name_of(log) == "Log" and not _is_complement(log) and id(_source(log)) in sources:
                found.append(Given("Log", graph.name_of(_below_clamp(log)), _saved(node, "other", "self")))
    return [given for given in found if given.targets is not None and 0 < given.targets.numel() <= MAX_NUMBERS]


def _is_complement(log: Node) -> bool:
    """Return whether a logarithm is that of 1 - p."""
    return graph.name_of(graph.only_input(log)) == "Rsub"


def _source(log: Node) -> Node:
    """Return what computed p, for the logarithm of p or of 1 - p."""
    return graph.only_input(graph.only_input(log)) if _is_complement(log) else graph.only_input(log)


def _below_clamp(log: Node) -> Node:
    node = _source(log)
    return graph.only_input(node) if graph.name_of(node) == "Clamp" else node


@torch.no_grad()
def _saved(node: Node, *names: str) -> Any:
    for name in names:
        try:
            tensor = getattr(node, f"_saved_{name}", None)
        except RuntimeError:  # freed, or changed in place since
            return None
        if isinstance(tensor, Tensor) and tensor.dim():
            return tensor.detach()
    return None


@torch.no_grad()
def _judge(given: Given) -> dict[str, Any] | None:
    """Return what is wrong, as evidence."""
    targets = given.targets.double()
    if not targets.isfinite().all():
        return None
    if given.loss == "Log":
        return _by_hand(given.activation, targets)
    is_probability = bool((targets >= -SLACK).all() and (targets <= 1 + SLACK).all())
    if not is_probability:
        return _of_numbers(given, targets) if given.loss == MSE else None
    is_wide = targets.dim() > 1 and targets.shape[-1] > 1
    not_one = float(((targets.sum(-1) - 1).abs() > SLACK).double().mean()) if is_wide else 0.0
    if given.loss == BCE and given.activation in NO_PROBABILITIES:
        return _no_probability(given.activation)
    are_labels = bool((targets == targets.round()).all())
    is_softmax = given.loss == "LogSoftmax" or given.activation == "Softmax"
    if is_softmax and is_wide and not_one > OUTSIDE and targets.shape[-1] <= MAX_CLASSES:
        return _of_several_labels(given, not_one, are_labels)
    if given.loss == MSE and given.activation in ("Softmax", "Sigmoid"):
        is_label = are_labels and not not_one
        return _slow(given.activation, is_wide) if is_label and (is_wide or given.activation == "Sigmoid") else None
    return None


def _of_several_labels(given: Given, share: float, are_labels: bool) -> dict[str, Any]:
    """Return that a softmax cannot reach the targets; one that is inside of the loss may be meant to compare shares."""
    detail = f"The outputs of a softmax add up to 1, and the targets of {share:.0%} of the examples do not."
    remedy = "remove the softmax after the last layer"
    if are_labels or given.loss != MSE:
        detail += " Several labels can be right at once."
        remedy = f"remove the softmax, with {LOGITS} as the loss"
    return _evidence(POSSIBLE if given.loss == "LogSoftmax" else CERTAIN, "Softmax", detail, remedy)


def _by_hand(activation: str, targets: Tensor) -> dict[str, Any] | None:
    """Return what is wrong with -y log p - (1 - y) log(1 - p): p is no probability, or y is none."""
    outside = float(((targets < -SLACK) | (targets > 1 + SLACK)).double().mean())
    if outside > OUTSIDE and _are_classes(targets):
        detail = f"A binary cross entropy is given numbers of classes, up to {float(targets.max()):.3g}."
        return _evidence(CERTAIN, activation, detail, f"{CLASSES}, with one output per class")
    return _no_probability(activation) if outside <= OUTSIDE and activation in NO_PROBABILITIES else None


def _no_probability(activation: str) -> dict[str, Any]:
    what = "the outputs of a layer" if activation in LINEAR else f"a {NAMES[activation]}"
    detail = f"A binary cross entropy takes the logarithm of {what} as if it were a probability."
    return _evidence(CERTAIN, activation, detail, f"{LOGITS} on the outputs of the last layer")


def _of_numbers(given: Given, targets: Tensor) -> dict[str, Any] | None:
    """Return numbers of classes under a squared error of an output that is a probability."""
    is_single = targets.dim() < 2 or targets.shape[-1] == 1
    if not (is_single and given.activation in ("Sigmoid", "Softmax") and _are_classes(targets)):
        return None
    name = NAMES[given.activation]
    detail = f"A {name} is at the output, and the targets are numbers of classes up to {float(targets.max()):.3g}."
    return _evidence(CERTAIN, given.activation, detail, f"{CLASSES}, with one output per class")


def _are_classes(targets: Tensor) -> bool:
    """Return whether targets are whole numbers in a narrow range from zero on."""
    return bool((targets == targets.round()).all() and targets.min() >= 0 and targets.max() < MAX_CLASSES)


def _slow(activation: str, is_wide: bool) -> dict[str, Any]:
    """Return that a squared error has flat regions where a cross entropy has none (Golik et al. 2013)."""
    name = NAMES[activation]
    detail = f"The squared error of a {name} is flat where it is wrong and sure: cross entropy is not."
    remedy = f"{CLASSES} on logits, without the {name}" if is_wide else f"{LOGITS}, without the {name}"
    return _evidence(POSSIBLE, activation, detail, remedy) | {SLOWS: True}


def _evidence(certainty: str, activation: str, detail: str, remedy: str) -> dict[str, Any]:
    return {CERTAINTY: certainty, "activation": NAMES.get(activation, activation), DETAIL: detail, REMEDY: remedy}
