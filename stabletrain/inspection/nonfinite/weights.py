"""A weight that is not finite: which one, and which step made it so."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from stabletrain.inspection.nonfinite.explanation import Explanation
from stabletrain.signal.domains import has_nan, is_bad, largest
from stabletrain.signal.operations import tensors_in
from stabletrain.vocabulary.origins import MADE_ON, OVERFLOW, WEIGHT

HUGE = 1e18  # beyond it, squares overflow float32


def explain_weight(model: nn.Module, optimizers: Sequence[Optimizer], step: int) -> Explanation | None:
    """Return which parameter is not finite, and how it became so; None if all are finite.

    The steps before were finite, so it is the update of the step before that made it, or what was done to the weights
    since then; on the first step, the initialization or what was loaded.
    """
    found = next(((path, p) for path, p in model.named_parameters() if is_bad(p.detach())), None)
    if found is None:
        return None
    path, parameter = found
    module = path.rpartition(".")[0] or type(model).__name__
    if step == 0:
        why = "a weight was not finite before the first step: its initialization, or what was loaded"
        return Explanation(WEIGHT, why, module=module, tensor=path)
    optimizer = next((o for o in optimizers if any(parameter is p for g in o.param_groups for p in g["params"])), None)
    more: dict[str, Any] = {MADE_ON: step - 1}
    if optimizer is None:
        why = f"the update of step {step - 1}, or what was done to the weights after it, made a weight Inf or NaN"
        return Explanation(WEIGHT, why, operation="step", module=module, tensor=path, more=more)
    name = type(optimizer).__name__
    group = next(g for g in optimizer.param_groups if any(parameter is p for p in g["params"]))
    state = optimizer.state.get(parameter, {})
    bad = [key for key, x in state.items() if isinstance(x, Tensor) and is_bad(x)]
    origin, why = _reason(name, group, parameter, bad)
    more |= {"state": bad} if bad else {}
    return Explanation(
        origin, f"{why}, on step {step - 1}", operation=f"{name}.step", module=module, tensor=path, more=more
    )


def _reason(name: str, group: Mapping[str, Any], parameter: nn.Parameter, bad: list[str]) -> tuple[str, str]:
    lr = group.get("lr")
    if lr is not None and not bool(torch.as_tensor(lr).isfinite()):
        return WEIGHT, f"the learning rate was {float(lr)}"
    finite = parameter.detach()[parameter.detach().isfinite()]
    if not has_nan(parameter.detach()) or (finite.numel() and largest(finite) > HUGE):
        return OVERFLOW, f"an update of {name} overflowed: the weights had grown beyond all bounds"
    if group.get("eps") == 0:
        return WEIGHT, f"{name} has eps=0 and divided 0 by 0 where the gradient was always 0"
    if bad:
        return WEIGHT, f"the state of {name} was not finite ({', '.join(bad)})"
    return WEIGHT, f"the step of {name}, or what was done to the weights after it, made a weight Inf or NaN"


def is_weight(model: nn.Module, x: Tensor) -> str | None:
    """Return the path of what the model keeps that shares its memory with a tensor; None if there is nothing.

    That is a parameter, a buffer, or a tensor that is an attribute of a module.
    """
    for path, known in (*model.named_parameters(), *model.named_buffers(), *_attributes(model)):
        if _same(known, x):
            return path
    return None


def _attributes(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield tensors that modules keep without registering them."""
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            if isinstance(value, Tensor):
                yield f"{path}.{name}".lstrip("."), value


def is_among(x: Tensor, values: Any) -> bool:
    """Return whether a tensor shares its memory with one of the tensors in nested containers."""
    return any(_same(known, x) for known in tensors_in(values))


def _same(a: Tensor, b: Tensor) -> bool:
    try:
        return a is b or a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr() != 0
    except (RuntimeError, NotImplementedError):
        return False
