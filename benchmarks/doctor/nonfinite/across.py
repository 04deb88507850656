"""Every origin in every data type, in a model that is called plainly, twice in a layer, functionally, or compiled."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.doctor.nonfinite.program import BAD_STEP, Parts, batch, program, sgd

INVALID, OVERFLOW, INPUT, TARGET, WEIGHT = "invalid_operation", "overflow", "input", "target", "weight"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
STYLES = ("plain", "shared", "functional", "compiled")
Function = Callable[[Tensor, Tensor], Tensor]
FUNCTIONS: dict[str, tuple[Function, float, str, str]] = {  # with the bad argument, its origin and operation
    "quotient": (lambda x, scale: x / scale, 0.0, INVALID, "DivBackward0"),
    "logarithm": (lambda x, scale: (x.sigmoid() * scale).log(), -1.0, INVALID, "LogBackward0"),
    "root": (lambda x, scale: (x * scale).abs().sqrt(), 0.0, INVALID, "SqrtBackward0"),
    "exponential": (lambda x, scale: (x * scale).exp(), 1e4, OVERFLOW, "ExpBackward0"),
}


class Middle(nn.Module):
    """The layer whose function fails."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        return self.function(x, scale)


class Net(nn.Module):
    """Two linear layers and one between them, which is called once or twice."""

    def __init__(self, function: Function, is_shared: bool) -> None:
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(8, 8), Middle(function), nn.Linear(8, 4)
        self.is_shared = is_shared

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        h = self.first(x)
        if self.is_shared:
            h = self.middle(h, torch.ones_like(scale))
        return self.last(self.middle(h, scale))


def make(function: Function, style: str, dtype: torch.dtype) -> tuple[Net, Callable[[Tensor, Tensor], Tensor]]:
    """Return the model, and how the loop calls it."""
    model = Net(function, style == "shared").to(dtype)
    if style == "functional":
        return model, lambda *args: torch.func.functional_call(model, dict(model.named_parameters()), args)
    return model, torch.compile(model, backend="aot_eager") if style == "compiled" else model


def fail_in(function: Function, bad: float, style: str, dtype: torch.dtype) -> Parts:
    """A program whose middle layer fails on the bad step."""
    model, run = make(function, style, dtype)

    def loss_at(step: int) -> Tensor:
        scale = torch.tensor(bad if step == BAD_STEP else 1.0, dtype=dtype)
        return run(batch().to(dtype), scale).float().square().mean()

    return model, sgd(model, 1e-3), loss_at


def spoil(what: str, style: str, dtype: torch.dtype) -> Parts:
    """A program whose batch, targets or weights are spoiled on the bad step."""
    model, run = make(torch.add, style, dtype)

    def loss_at(step: int) -> Tensor:
        x, y = batch().to(dtype), torch.randn(16, 4)
        if step == BAD_STEP:
            with torch.no_grad():
                {INPUT: x, TARGET: y, WEIGHT: model.last.weight}[what][3, 1] = torch.nan
        return F.mse_loss(run(x, torch.ones((), dtype=dtype)).float(), y)

    return model, sgd(model, 1e-3), loss_at


SPOILED = {
    INPUT: ("AddmmBackward0", "first"),
    TARGET: ("MseLossBackward0", None),
    WEIGHT: ("SGD.step", "last"),
}


def register() -> None:
    """Register one program for each combination."""
    for dtype, style in product(DTYPES, STYLES):
        for name, (function, bad, origin, operation) in FUNCTIONS.items():
            named = _named(
                f"{name}_{style}_{dtype}", lambda f=function, b=bad, s=style, d=dtype: fail_in(f, b, s, DTYPES[d])
            )
            program(origin, operation, "middle")(named)
        for what, (operation, module) in SPOILED.items():
            named = _named(f"{what}_{style}_{dtype}", lambda w=what, s=style, d=dtype: spoil(w, s, DTYPES[d]))
            program(what, operation, module)(named)


def _named(name: str, build: Callable[[], Parts]) -> Callable[[], Parts]:
    build.__name__ = name
    return build


register()
