"""Short training loops that an inspection follows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stabletrain.inspection.inspections import Inspections
from stabletrain.inspection.inspector import StepView
from stabletrain.vocabulary.notice import Notice, join

STEPS = 16
N = 8


def mlp(*tail: nn.Module, outputs: int = 3) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 20), nn.ReLU(), nn.Linear(20, outputs), *tail)


def batch(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(N, 4, generator=generator), torch.randint(3, (N,), generator=generator)


def cross_entropy(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(model(x), y)


def train(
    model: nn.Module,
    loss_of: Callable[..., Tensor] = cross_entropy,
    *,
    optimizer: Any = None,
    batch: Callable[[int], tuple[Tensor, ...]] = batch,
    num_steps: int = STEPS,
    before: Callable[[Any], None] = lambda optimizer: optimizer.zero_grad(),
    after: Callable[[Any], None] = lambda optimizer: None,
    each: int = 1,
) -> dict[tuple[str, str], Notice]:
    """Train; return what was noticed, by kind and certainty.

    Args:
        before: What happens to the gradients before the backward pass.
        after: What happens to them after it.
        each: Backward passes per optimizer step.
    """
    optimizer = optimizer or torch.optim.SGD(model.parameters(), 0.05)
    inspections, found = Inspections(model), ()
    for step in range(num_steps):
        loss = loss_of(model, *batch(step))
        if step % each == 0:
            before(optimizer)
        loss.backward()
        for notice in inspections.step(StepView(step, model, loss)):
            found = join(found, notice)
        after(optimizer)
        if (step + 1) % each == 0:
            optimizer.step()
    inspections.detach()
    return {(notice.kind, notice.evidence["certainty"]): notice for notice in found}


def kinds(found: dict[tuple[str, str], Notice]) -> list[tuple[str, str]]:
    """Return kinds and certainties, those that are no more than worth knowing left out."""
    return [key for key in found if key[1] != "harmless"]
