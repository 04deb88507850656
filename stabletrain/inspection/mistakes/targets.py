"""Targets that are off scale, or outside of what the outputs can reach."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from stabletrain.inspection.inspector import Inspector, StepView
from stabletrain.inspection.mistakes import graph
from stabletrain.inspection.mistakes.cadence import FIRST
from stabletrain.inspection.mistakes.graph import Node
from stabletrain.inspection.mistakes.loss_terms import BINARY, REAL, Term, terms_of
from stabletrain.inspection.mistakes.output_activation import NAMES
from stabletrain.torch_tools.backward_calls import ignore_backward, observe_backward
from stabletrain.torch_tools.module_hooks import ModuleHooks
from stabletrain.vocabulary.kinds import OUTPUT_ACTIVATION, TARGET_SCALE
from stabletrain.vocabulary.notice import CERTAIN, CERTAINTY, DETAIL, LIKELY, POSSIBLE, REMEDY, Notice

LARGE = 10.0  # |mean| or standard deviation of the targets: with 5, networks learn as usual
VERY_LARGE = 25.0  # … at which standardizing is likely to be forgotten
REACHED = 0.3  # size of the outputs over that of the targets: a network that reaches them has learned their scale
MAX_NUMBERS = 2**20  # outputs beyond are not kept until the end of the backward pass
MAX_TENSORS = 4
MAX_CLASSES = 100  # whole numbers in a narrower range are taken for classes
RANGES = {"Sigmoid": (0.0, 1.0), "Softmax": (0.0, 1.0), "Tanh": (-1.0, 1.0), "Relu": (0.0, float("inf"))}
OUTSIDE = 0.1  # share of the targets
SLACK = 0.01  # targets this far outside of the range are at its end, up to rounding
SCALING = ("Mul", "Div")  # by a constant, as for a mean over micro-batches
AVERAGING = ("Mean", "Sum")
MEAN, SUM = 1, 2  # in `MseLossBackward0._saved_reduction`


class Squares(NamedTuple):
    """A loss that is a squared error: a constant times the mean or the sum of squares."""

    outputs: Node  # what computed the outputs, reshapes skipped
    is_mean: bool
    is_scaled: bool  # the constant is unknown


class TargetInspector(Inspector):
    """Reads the targets of the losses of `torch.nn.functional`, which save them (see `loss_terms`).

    Those of a squared error that was written by hand, L = c Σ r², r = y − t, follow from the outputs y and their
    gradient g = 2 c r: Σ g² = 4 c L, and r = 2 L g / Σ g². If c is known, r = g √(L / (c Σ g²)) holds also where the
    gradient has been scaled, as for half precision.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self._hooks = ModuleHooks(after=TargetInspector._leave)
        self._outputs: list[_Output] = []
        self._terms: list[Term] = []
        self._is_done = graph.is_compiled(model)

    def expect(self, step: int) -> None:
        """Look at the outputs of the first steps."""
        self._outputs, self._terms = [], []
        if step == 0 and not self._is_done:
            self._hooks.open(self, after=[(self.model, None)])
            observe_backward(self.before_backward)
        elif step >= FIRST:
            self.detach()

    def before_backward(self, loss: Tensor) -> None:
        """Read the targets of a loss."""
        self._terms = terms_of(loss) if loss.grad_fn is not None else []

    def inspect(self, view: StepView) -> list[Notice]:
        """Return targets off scale, and those that the outputs cannot reach."""
        if self._is_done or not isinstance(view.loss, Tensor):
            return []
        squares = squares_of(view.loss)
        by_term = [(term, notice) for term in self._terms for notice in _of_term(term, view)]
        if by_term or not self._outputs:
            others = []
            if squares is not None and by_term and by_term[0][0].function == "mse_loss":
                others = _unreachable(squares, by_term[0][0].targets, view, is_scaled=True)
            return [*others, *(notice for _, notice in by_term[:1])]
        if squares is None:
            return self._far_off(view, view.loss)
        output = next((o for o in self._outputs if o.node is squares.outputs and o.gradient is not None), None)
        if output is None:
            return []
        targets = _targets(output, squares, float(view.loss.detach()))
        if targets is None:
            return []
        off_scale = _off_scale(output.values, targets, view)
        return [*_unreachable(squares, targets, view, is_scaled=bool(off_scale)), *off_scale]

    def detach(self) -> None:
        """Remove all hooks."""
        self._is_done = True
        self._hooks.close()
        ignore_backward(self.before_backward)
        self._outputs, self._terms = [], []

    def _far_off(self, view: StepView, loss: Tensor) -> list[Notice]:
        """Return targets that are far from the outputs in comparison with the size of both, by an absolute error."""
        node, error = absolute_error(loss)
        output = next((o for o in self._outputs if node is not None and o.node is node), None)
        if output is None or not LARGE < error < float("inf"):
            return []
        size = float(output.values.double().square().mean().sqrt())
        if size >= REACHED * error:
            return []
        certainty = LIKELY if error > VERY_LARGE else POSSIBLE
        detail = f"The outputs are {size:.3g} in size, and miss the targets by {error:.3g} on average."
        evidence = {CERTAINTY: certainty, "mean_absolute_error": error, "output_size": size, DETAIL: detail}
        return [Notice(TARGET_SCALE.name, view.step, view.step, evidence=evidence)]

    def _leave(self, _: None, module: nn.Module, inputs: Any, outputs: Any) -> None:
        for tensor in _tensors(outputs):
            is_usable = tensor.grad_fn is not None and 1 < tensor.numel() <= MAX_NUMBERS
            if is_usable and len(self._outputs) < MAX_TENSORS:
                self._outputs.append(_Output(tensor))


class _Output:
    """An output of the model, and its gradient after the backward pass."""

    def __init__(self, tensor: Tensor) -> None:
        self.node = graph.skip_reshapes(tensor.grad_fn)
        self.values = tensor.detach()
        self.gradient: Tensor | None = None
        self._version = tensor._version
        tensor.register_hook(self._keep)

    def _keep(self, gradient: Tensor) -> None:
        if self.values._version == self._version:  # not modified in place since
            self.gradient = gradient.detach()


def squares_of(loss: Any) -> Squares | None:
    """Return how a loss is made of squares; None if it is not a squared error alone."""
    node = loss.grad_fn if isinstance(loss, Tensor) else None
    is_scaled, is_mean = False, None
    while node is not None:
        name, inputs = graph.name_of(node), graph.inputs_of(node)
        if name in SCALING and len(inputs) == 1 and graph.shape_of(node) == ():
            is_scaled = True
        elif name in AVERAGING and is_mean is None and len(inputs) == 1:
            is_mean = name == "Mean"
        elif name == "MseLoss" and _reduction(node) in (MEAN, SUM):
            return Squares(_outputs_of(node), _reduction(node) == MEAN, is_scaled)
        elif is_mean is not None and _is_square(node) and graph.name_of(inputs[0]) == "Sub":
            return Squares(_outputs_of(inputs[0]), is_mean, is_scaled) if len(graph.inputs_of(inputs[0])) == 1 else None
        elif name not in graph.SAME_VALUES:
            return None
        node = inputs[0] if inputs else None
    return None


def absolute_error(loss: Tensor) -> tuple[Node | None, float]:
    """Return what computed the outputs, and the mean absolute error of an L1, smooth L1 or Huber loss of large errors.

    Beyond their quadratic part, smooth L1 is |r| − β/2 and Huber's loss δ (|r| − δ/2).
    """
    node, value = loss.grad_fn, float(loss.detach())
    name = graph.name_of(node)
    if name == "SmoothL1Loss" and _reduction(node) == MEAN:
        return _outputs_of(node), value + getattr(node, "_saved_beta", 1.0) / 2
    if name == "HuberLoss" and _reduction(node) == MEAN:
        delta = getattr(node, "_saved_delta", 1.0)
        return _outputs_of(node), value / delta + delta / 2
    if name == "Mean" and graph.name_of(graph.only_input(node)) == "Abs":
        difference = graph.only_input(graph.only_input(node))
        if graph.name_of(difference) == "Sub" and len(graph.inputs_of(difference)) == 1:
            return _outputs_of(difference), value
    return None, 0.0


def _reduction(node: Node) -> int:
    return getattr(node, "_saved_reduction", 0)


def _outputs_of(node: Node) -> Node:
    return graph.skip_reshapes(next(iter(graph.inputs_of(node)), None))


def _is_square(node: Node) -> bool:
    inputs = graph.inputs_of(node)
    if graph.name_of(node) == "Pow":
        return getattr(node, "_saved_exponent", None) == 2
    return graph.name_of(node) == "Mul" and len(inputs) == 2 and inputs[0] is inputs[1]


@torch.no_grad()
def _targets(output: _Output, squares: Squares, loss: float) -> Tensor | None:
    assert output.gradient is not None
    g = output.gradient.double()
    total = float(g.square().sum())
    if not 0 < total < float("inf") or not 0 < loss < float("inf"):
        return None
    if squares.is_scaled:
        factor = 2 * loss / total
    else:
        factor = (loss * (g.numel() if squares.is_mean else 1) / total) ** 0.5
    return output.values.double() - factor * g


def _of_term(term: Term, view: StepView) -> list[Notice]:
    """Return what is wrong with targets that a loss saved.

    Off scale are only those of a loss that consists of nothing else: the value function of a policy gradient is trained
    on returns of any size beside the policy.
    """
    targets = term.targets.double()
    if term.kind == BINARY:
        return _no_probabilities(term, targets, view)
    is_regression = term.kind == REAL and term.is_alone and targets.numel() > 1
    return _off_scale(term.outputs, targets, view) if is_regression else []


def _no_probabilities(term: Term, targets: Tensor, view: StepView) -> list[Notice]:
    """Return targets of a binary cross entropy that are no probabilities."""
    outside = float(((targets < -SLACK) | (targets > 1 + SLACK)).double().mean())
    if outside <= OUTSIDE:
        return []
    low, high = float(targets.min()), float(targets.max())
    evidence: dict[str, Any] = {CERTAINTY: CERTAIN, "loss": term.function, "share_outside": round(outside, 3)}
    evidence |= {"smallest_target": low, "largest_target": high}
    evidence[DETAIL] = (
        f"{term.function} takes targets between 0 and 1, and is given some between {low:.3g} and {high:.3g}."
    )
    if bool((targets == targets.round()).all()) and high - low < MAX_CLASSES:
        evidence[REMEDY] = "torch.nn.functional.cross_entropy(model(x), y), with one output per class"
        return [Notice(OUTPUT_ACTIVATION.name, view.step, view.step, evidence=evidence)]
    mean, std = float(targets.mean()), float(targets.std(correction=0))
    evidence |= {"mean": mean, "std": std}
    evidence[REMEDY] = (
        f"torch.nn.functional.mse_loss in place of {term.function}, with y = (y - {mean:.4g}) / {std:.4g}"
    )
    return [Notice(TARGET_SCALE.name, view.step, view.step, evidence=evidence)]


def _off_scale(outputs: Tensor, targets: Tensor, view: StepView) -> list[Notice]:
    mean, std = float(targets.mean()), float(targets.std(correction=0))
    size = float(targets.square().mean().sqrt())
    reached = float(outputs.double().square().mean().sqrt()) / max(size, 1e-30)
    if max(abs(mean), std) <= LARGE or reached >= REACHED:
        return []
    certainty = LIKELY if max(abs(mean), std) > VERY_LARGE else POSSIBLE
    evidence: dict[str, Any] = {CERTAINTY: certainty, "mean": mean, "std": std}
    evidence[DETAIL] = f"The targets have mean {mean:.3g} and standard deviation {std:.3g}."
    if std > 0:
        evidence[REMEDY] = f"y = (y - {mean:.4g}) / {std:.4g}"
    return [Notice(TARGET_SCALE.name, view.step, view.step, evidence=evidence)]


def _unreachable(squares: Squares, targets: Tensor, view: StepView, is_scaled: bool = False) -> list[Notice]:
    activation = graph.name_of(squares.outputs)
    low, high = RANGES.get(activation, (-float("inf"), float("inf")))
    outside = float(((targets < low - SLACK) | (targets > high + SLACK)).double().mean())
    if outside <= OUTSIDE:
        return []
    name = NAMES[activation]
    detail = f"A {name} is at the output, and {outside:.0%} of the targets are outside of its range."
    evidence: dict[str, Any] = {CERTAINTY: CERTAIN, "activation": name, "share_outside": round(outside, 3)}
    evidence |= {"smallest_target": float(targets.min()), "largest_target": float(targets.max()), DETAIL: detail}
    remedy = f"remove the {name} after the last layer"  # where they are standardized, they leave its range again
    evidence[REMEDY] = remedy if is_scaled else f"{remedy}, or scale the targets into its range"
    return [Notice(OUTPUT_ACTIVATION.name, view.step, view.step, evidence=evidence)]


def _tensors(values: Any) -> list[Tensor]:
    if isinstance(values, Tensor):
        return [values] if values.is_floating_point() else []
    if isinstance(values, dict):
        return [t for value in values.values() for t in _tensors(value)]
    if isinstance(values, tuple | list):
        return [t for value in values for t in _tensors(value)]
    return []
