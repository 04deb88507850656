"""The part of the graph between the model's outputs and the loss: the user's own loss, which cannot be run again."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stabletrain.signal.domains import Judgement, has_nan, is_bad, judge, largest
from stabletrain.vocabulary.origins import INVALID, OVERFLOW, TARGET, base_of, family_of, is_risky

MAX_NODES = 256  # of a loss; a larger graph is followed only so far
OPERANDS = {  # names of the saved operands in the order of a node's edges, if not `self`, `other`
    "MseLoss": ("self", "target"),
    "L1Loss": ("self", "target"),
    "SmoothL1Loss": ("self", "target"),
    "HuberLoss": ("self", "target"),
    "BinaryCrossEntropy": ("self", "target"),
    "BinaryCrossEntropyWithLogits": ("self", "target"),
    "Pow": ("self", "exponent"),
    "Mm": ("self", "mat2"),
    "Bmm": ("self", "mat2"),
    "Addmm": ("", "mat1", "mat2"),
    "Cdist": ("x1", "x2"),
}
BINARY = ("Sub", "Add", "Mul", "Div", "Rsub", "Where", "Maximum", "Minimum", "Cat", "Stack", "Mm", "Bmm", "Pow")


class FoundInLoss(NamedTuple):
    """What was found: the node, the origin with its reason, and the tensor at fault (the target's), if there is one."""

    operation: str
    judgement: Judgement
    tensor: Tensor | None = None


@dataclass(eq=False)
class Part:
    """A node of the graph, and what was kept of it.

    Attributes:
        node: Autograd's node.
        name: Its name.
        saved: Tensors and numbers that it saved for its derivative.
        flow: `gradient_in` and `gradient_out`, filled in the backward pass: whether they were finite.
    """

    node: Any
    name: str
    saved: dict[str, Any] = field(default_factory=dict)
    flow: list[Tensor | bool] = field(default_factory=list)


class LossPart:
    """Keeps references to what the nodes of a loss saved, before the backward pass frees it.

    Args:
        loss: The loss, before its backward pass.
        ends: Nodes that computed the model's outputs, at which the loss's part ends.
        is_bad: Whether the loss is known not to be finite. Then all nodes are kept; otherwise only those whose
            derivative may be infinite, and these are asked whether it was.
    """

    def __init__(self, loss: Tensor, ends: Collection[Any], *, is_bad: bool) -> None:
        self.loss = loss.detach()
        self.root = loss.grad_fn
        self.is_bad = is_bad
        self.parts: list[Part] = []
        waiting, seen = [loss.grad_fn], {*ends}
        while waiting and len(self.parts) < MAX_NODES:
            node = waiting.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            name = node.name()
            if name.endswith("AccumulateGrad"):
                continue
            part = Part(node, name)
            self.parts.append(part)
            waiting += [following for following, _ in node.next_functions]
            if is_bad or is_risky(name) or _is_users(node):
                self._keep(part, listens=not is_bad)
        self.parts.sort(key=lambda part: part.node._sequence_nr())

    @staticmethod
    def _keep(part: Part, *, listens: bool) -> None:
        for key in _saved_of(type(part.node)):
            try:
                part.saved[key.removeprefix("_saved_")] = getattr(part.node, key)
            except RuntimeError:  # overwritten since, or freed by an earlier backward pass
                continue
        if listens:
            part.node.register_hook(_Listen(part.flow))

    def find_in_backward(self) -> FoundInLoss | None:
        """Return the node whose derivative is not finite although the gradient that it received is."""
        for part in reversed(self.parts):
            if len(part.flow) == 2 and bool(part.flow[1]) and not bool(part.flow[0]):
                family = family_of(part.name)
                why = family.backward if family else "the derivative is not finite"
                return FoundInLoss(part.name, Judgement(_backward_origin(part), why))
        return None

    def find_in_forward(self) -> FoundInLoss | None:
        """Return the first node whose value is not finite although its operands are, or the target that is not."""
        bad: dict[Any, Tensor] = {}
        for part in self.parts:
            for key, x in _floats(part):
                edge = self._edge(part, key)
                if is_bad(x) and edge is not None:
                    bad.setdefault(edge, x)
            result = part.saved.get("result")
            if isinstance(result, Tensor) and is_bad(result):
                bad.setdefault(part.node, result)
        for part in self.parts:
            found = self._constant(part) or self._invalid(part, bad) or self._unexplained(part, bad)
            if found is not None:
                return found
        last = self.parts[-1] if self.parts else None
        if last is None:
            return None
        if has_nan(self.loss):
            combining = [part for part in self.parts if _has_constant(part)]
            cast = next((part for part in self.parts if base_of(part.name) == "ToCopy"), None)
            if combining and cast is None:
                return FoundInLoss(combining[0].name, Judgement(TARGET, "NaN in a tensor that is not the model's"))
            if cast is not None:
                return FoundInLoss(cast.name, Judgement(OVERFLOW, "a value beyond the range of a smaller data type"))
        return FoundInLoss(last.name, judge(base_of(last.name), (), self.loss))

    def _edge(self, part: Part, key: str) -> Any:
        """Return the node that computed a saved operand; None if it is a constant."""
        names = OPERANDS.get(base_of(part.name), ("self", "other"))
        edges = part.node.next_functions
        index = names.index(key) if key in names else -1
        return edges[index][0] if 0 <= index < len(edges) else None

    def _constant(self, part: Part) -> FoundInLoss | None:
        for key, x in _floats(part):
            names = OPERANDS.get(base_of(part.name), ("self", "other"))
            if key not in names or self._edge(part, key) is not None:
                continue
            if has_nan(x) or (is_bad(x) and key == "target"):
                what = "NaN" if has_nan(x) else "Inf"
                return FoundInLoss(part.name, Judgement(TARGET, f"{what} in the target"), x)
        return None

    def _invalid(self, part: Part, bad: dict[Any, Tensor]) -> FoundInLoss | None:
        base, saved, node = base_of(part.name), part.saved, part.node
        known = bad.get(node)
        if base == "CtcLoss" and (family := family_of(part.name)):
            return FoundInLoss(part.name, Judgement(INVALID, family.forward))
        if base == "Mean" and 0 in (*saved.get("self_sym_sizes", ()), saved.get("self_sym_numel", 1)):
            return FoundInLoss(part.name, Judgement(INVALID, "the mean of no element"))
        if (
            base.startswith("NllLoss")
            and isinstance(saved.get("total_weight"), Tensor)
            and not bool(saved["total_weight"].any())
        ):
            return FoundInLoss(part.name, Judgement(INVALID, "the mean of no element: every target is ignored"))
        operands = [saved[name] for name in OPERANDS.get(base, ("self", "other")) if name in saved]
        if base == "Div" and "other" in saved and "self" not in saved:
            operands = [self.loss.new_ones(()), saved["other"]]
        result = saved.get("result") if known is None else known
        if operands and not any(isinstance(x, Tensor) and has_nan(x) for x in operands):
            value = result if isinstance(result, Tensor) and is_bad(result) else self.loss.new_full((), torch.nan)
            found = judge(base.lower(), operands, value)
            if (
                is_risky(part.name)
                and found.origin == INVALID
                and found.why not in ("NaN from finite inputs", "operation on Inf")
            ):
                return FoundInLoss(part.name, found)
        if isinstance(result, Tensor) and known is not None and "result" in saved:
            family = family_of(part.name)
            origin = OVERFLOW if base in ("Exp", "Expm1", "Sinh", "Cosh") else INVALID
            return FoundInLoss(part.name, Judgement(origin, family.forward if family else "not finite"))
        return None

    def _unexplained(self, part: Part, bad: dict[Any, Tensor]) -> FoundInLoss | None:
        value = bad.get(part.node)
        if value is None or any(edge in bad for edge, _ in part.node.next_functions):
            return None
        if has_nan(value) and _has_constant(part):
            return FoundInLoss(part.name, Judgement(TARGET, "NaN in a tensor that is not the model's"))
        return FoundInLoss(part.name, judge(base_of(part.name).lower(), (), value))


class _Listen:
    """Notes whether the gradients of a node are finite, and keeps no reference to them."""

    def __init__(self, flow: list[Tensor | bool]) -> None:
        self._flow = flow

    def __call__(self, gradients_in: Any, gradients_out: Any) -> None:
        self._flow[:] = [_finite(gradients_in), _finite(gradients_out)]


def _finite(gradients: Any) -> Tensor | bool:
    known = [g.isfinite().all() for g in gradients if isinstance(g, Tensor)]
    return torch.stack(known).all() if len(known) > 1 else known[0] if known else True


def _backward_origin(part: Part) -> str:
    if base_of(part.name) in ("Exp", "Mul", "Mm", "Bmm", "Prod", "ToCopy"):
        return OVERFLOW
    operands = [x for _, x in _floats(part)]
    if base_of(part.name) == "Div" and isinstance(part.saved.get("other"), Tensor):
        return INVALID if largest(1 / part.saved["other"]) > 1e3 or bool((part.saved["other"] == 0).any()) else OVERFLOW
    return OVERFLOW if operands and all(largest(x) > 1e15 for x in operands) else INVALID


def _floats(part: Part) -> list[tuple[str, Tensor]]:
    return [(k, x) for k, x in part.saved.items() if isinstance(x, Tensor) and x.is_floating_point()]


def _has_constant(part: Part) -> bool:
    """Return whether a node combines the graph with a tensor that autograd does not follow, and that may be NaN."""
    names = OPERANDS.get(base_of(part.name), ("self", "other"))
    constants = [i for i, (edge, _) in enumerate(part.node.next_functions) if edge is None]
    saved = [part.saved.get(names[i]) if i < len(names) else None for i in constants]
    may_be_nan = [not (isinstance(x, Tensor) and not is_bad(x)) for x in saved]
    return base_of(part.name) in (*BINARY, *OPERANDS) and any(may_be_nan)


def _is_users(node: Any) -> bool:
    """Return whether it is a node of a `torch.autograd.Function` of somebody's own."""
    return isinstance(node, torch.autograd.function.BackwardCFunction)


_SAVED: dict[type, list[str]] = {}


def _saved_of(kind: type) -> list[str]:
    """Return the names of what nodes of this type save; looking them up takes longer than reading them."""
    if kind not in _SAVED:
        _SAVED[kind] = [key for key in dir(kind) if key.startswith("_saved_")]
    return _SAVED[kind]
