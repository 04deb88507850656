"""An activation at the output that does not fit the loss."""

from __future__ import annotations

from torch import Tensor

from stabletrain.inspection.inspector import Inspector, StepView
from stabletrain.inspection.mistakes import graph
from stabletrain.inspection.mistakes.cadence import is_inspected
from stabletrain.inspection.mistakes.graph import Node
from stabletrain.vocabulary.kinds import OUTPUT_ACTIVATION
from stabletrain.vocabulary.notice import CERTAIN, CERTAINTY, DETAIL, LIKELY, REMEDY, Notice

NAMES = {  # of operations, in words
    "Softmax": "softmax",
    "LogSoftmax": "log-softmax",
    "Sigmoid": "sigmoid",
    "Relu": "ReLU",
    "LeakyRelu": "leaky ReLU",
    "Tanh": "tanh",
    "Elu": "ELU",
}
LINEAR = ("Addmm", "Mm", "Bmm", "Baddbmm", "Linear", "Convolution", "CudnnConvolution", "MkldnnConvolution")
ON_PROBABILITIES = ("BinaryCrossEntropy", "MseLoss")
CROSS_ENTROPY, BCE_LOGITS, NLL = "cross_entropy", "binary_cross_entropy_with_logits", "nll_loss"


class OutputActivationInspector(Inspector):
    """Looks in the graph of the loss for the operations right below those that only losses contain.

    A softmax, sigmoid or ReLU below a log-softmax has no use anywhere. A log-softmax below another one changes nothing.
    """

    def inspect(self, view: StepView) -> list[Notice]:
        """Return the first activation, from the loss on, that does not fit."""
        if not isinstance(view.loss, Tensor) or not is_inspected(view.step):
            return []
        for node in graph.walk(view.loss):
            found = _find(node)
            if found is not None:
                return [Notice(OUTPUT_ACTIVATION.name, view.step, view.step, evidence=found)]
        return []


def _find(node: Node) -> dict[str, str] | None:
    """Return what is wrong below an operation, as evidence."""
    name = graph.name_of(node)
    below = graph.only_input(node)
    activation = graph.name_of(below)
    if name == "LogSoftmax":
        return _under_logits(activation, CROSS_ENTROPY)
    if name == "BinaryCrossEntropyWithLogits":
        return _under_logits(activation, BCE_LOGITS)
    if name in ("NllLoss", "NllLoss2D", "NllLossNd"):
        if activation in ("LogSoftmax", "Softmax"):
            useless = _is_useless(below, activation)
            if useless is not None:
                return useless
        return _under_logarithms(activation)
    if name in ON_PROBABILITIES and activation == "Softmax":
        return _is_useless(below, activation, is_regression=name == "MseLoss")
    if name == "Mul" and activation == "LogSoftmax" and len(graph.inputs_of(node)) == 1:
        return _is_useless(below, activation)  # cross entropy with probabilities as targets
    return None


def _under_logits(activation: str, loss: str) -> dict[str, str] | None:
    if activation in ("Softmax", "Sigmoid"):
        detail = f"A {NAMES[activation]} is at the output, and {loss} contains one itself."
        return _evidence(activation, loss, detail, f"remove the {NAMES[activation]}: {loss} takes logits")
    if activation in ("Relu", "Tanh"):
        range_ = "not negative" if activation == "Relu" else "between -1 and 1"
        detail = f"A {NAMES[activation]} is applied to the logits, which are then {range_}."
        return _evidence(activation, loss, detail, f"remove the {NAMES[activation]} after the last layer", LIKELY)
    return None


def _under_logarithms(activation: str) -> dict[str, str] | None:
    if activation not in (*LINEAR, *NAMES) or activation == "LogSoftmax":
        return None
    given = "the outputs of a layer" if activation in LINEAR else f"a {NAMES[activation]}"
    detail = f"nll_loss takes logarithms of probabilities, and is given {given}."
    return _evidence(activation, NLL, detail, "torch.nn.functional.cross_entropy in place of nll_loss, on logits")


def _is_useless(node: Node, activation: str, is_regression: bool = False) -> dict[str, str] | None:
    """Return what is wrong with the axis of a softmax; where numbers are to be predicted, they need none."""
    shape, axis = graph.shape_of(node), getattr(node, "_saved_dim", None)
    if shape is None or axis is None or not shape:
        return None
    axis = axis - 2**64 if axis >= 2**63 else axis  # a negative number is saved without its sign
    axis %= len(shape)
    if shape[axis] == 1:
        detail = f"The {NAMES[activation]} at the output is taken over a single value: it is constant."
        if activation == "LogSoftmax":
            detail = "Cross entropy is taken over a single output, whose probability is always 1: it is constantly 0."
        remedy = "binary_cross_entropy_with_logits on the single output, or one output per class"
        if is_regression:
            remedy = f"remove the {NAMES[activation]} after the last layer"
        return _evidence(activation, "", detail, remedy)
    if axis == 0 and len(shape) == 2 and shape[0] > 1:
        detail = f"The {NAMES[activation]} at the output is taken over the examples of the batch, not over the classes."
        return _evidence(activation, "", detail, "softmax(dim=1), or cross_entropy on logits")
    return None


def _evidence(activation: str, loss: str, detail: str, remedy: str, certainty: str = CERTAIN) -> dict[str, str]:
    named = {"activation": NAMES.get(activation, activation), **({"loss": loss} if loss else {})}
    return {CERTAINTY: certainty, **named, DETAIL: detail, REMEDY: remedy}
