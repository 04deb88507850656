"""A small program that produces Inf or NaN, and what is right about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Model = nn.Module
LossAt = Callable[[int], Tensor]
Parts = tuple[Model, torch.optim.Optimizer, LossAt]


@dataclass(frozen=True)
class Program:
    """A training loop of a few steps.

    Attributes:
        name: Its name in the table.
        build: Returns the model, its optimizer, and a function from the step to the loss.
        origin: The right origin; None for a healthy program.
        operations: Right names of the operation.
        modules: Right modules; None is code outside of the model.
        num_steps: Number of steps.
    """

    name: str
    build: Callable[[], Parts]
    origin: str | None
    operations: tuple[str, ...] = ()
    modules: tuple[str | None, ...] = ()
    num_steps: int = 12


PROGRAMS: dict[str, Program] = {}


def program(
    origin: str | None,
    operations: str = "",
    *modules: str | None,
    num_steps: int = 12,
) -> Callable[[Callable[[], Parts]], Callable[[], Parts]]:
    """Register a program (decorator). `operations` are separated by spaces; without modules, any is right."""

    def register(build: Callable[[], Parts]) -> Callable[[], Parts]:
        name = build.__name__
        PROGRAMS[name] = Program(name, build, origin, tuple(operations.split()), modules, num_steps)
        return build

    return register


def mlp(num_inputs: int = 8, num_outputs: int = 4, *tail: nn.Module) -> nn.Sequential:
    """A network with one hidden layer: modules 0, 1, 2."""
    return nn.Sequential(nn.Linear(num_inputs, 16), nn.Tanh(), nn.Linear(16, num_outputs), *tail)


def sgd(model: Model, lr: float = 0.01) -> torch.optim.Optimizer:
    """Plain gradient descent."""
    return torch.optim.SGD(model.parameters(), lr)


def batch(num: int = 16, num_features: int = 8) -> Tensor:
    """A batch of random inputs."""
    return torch.randn(num, num_features)


BAD_STEP = 5  # on which most programs go wrong; a mended one would not
