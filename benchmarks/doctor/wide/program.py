"""A program of the wide part: networks, batches, a loss per network, and a score. One loop trains them all."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Generator, Tensor, nn

Batch = tuple[Tensor, ...]  # inputs first, targets last


class Program:
    """What a user's script would contain besides its training loop. Its constructor makes data and networks.

    Attributes:
        networks: Networks by name; each has its own optimizer, and takes its step in this order.
        prior_loss: Loss of the best constant prediction where a user would know it, else None.
        lr: Learning rate of Adam.
        beta1: Decay of Adam's first moment.
        sgd_lr: Learning rate of SGD with a momentum of 0.9.
        num_steps: The training budget.
        batch_size: Examples in a batch.
        head: Path of the layer that returns the outputs; "" if there is no such layer.
        parts: Paths of modules that a mistake can detach, freeze or leave out of the optimizer.
        frozen: Paths of modules that a healthy variant freezes.
        activation: `softmax` or `sigmoid`, the activation that the loss applies to the outputs; "" if none.
        has_float_inputs: Whether the inputs are numbers, `x` and `val_x`, that can be off scale.
        has_targets: Whether the last tensor of a batch are targets.
        has_modes: Whether it has dropout or batch norm.
        has_batch_norm: Whether it has batch norm over more than the examples of a batch.
        has_column: Whether the targets are a column of numbers, (N, 1), as the outputs are.
    """

    lr: ClassVar[float] = 3e-3
    beta1: ClassVar[float] = 0.9
    sgd_lr: ClassVar[float] = 0.05
    num_steps: ClassVar[int] = 200
    batch_size: ClassVar[int] = 64
    head: ClassVar[str] = "head"
    parts: ClassVar[tuple[str, ...]] = ()
    frozen: ClassVar[tuple[str, ...]] = ()
    activation: ClassVar[str] = ""
    has_float_inputs: ClassVar[bool] = True
    has_targets: ClassVar[bool] = True
    has_modes: ClassVar[bool] = False
    has_batch_norm: ClassVar[bool] = False
    has_column: ClassVar[bool] = False
    networks: dict[str, nn.Module]
    prior_loss: float | None = None

    def __init__(self, seed: int) -> None:
        raise NotImplementedError

    @property
    def model(self) -> nn.Module:
        """The first network."""
        return next(iter(self.networks.values()))

    def batch(self, size: int, generator: Generator) -> Batch:
        """Return a batch of `size` examples."""
        raise NotImplementedError

    def loss(self, batch: Batch, network: str) -> Tensor:
        """Return the loss that `network` is trained with."""
        raise NotImplementedError

    def after_step(self, step: int) -> None:
        """Do what the program does after a step, such as to update a target network."""

    def score(self) -> float:
        """Return points from 0 to 100 on validation data, without gradients and in evaluation mode."""
        raise NotImplementedError


class Supervised(Program):
    """A model, and examples with targets.

    Attributes:
        x: Inputs (N, …).
        y: Targets (N, …).
        val_x: Inputs for the score.
        val_y: Targets for the score.
    """

    x: Tensor
    y: Tensor
    val_x: Tensor
    val_y: Tensor

    def batch(self, size: int, generator: Generator) -> Batch:
        rows = torch.randint(len(self.x), (size,), generator=generator)
        return self.x[rows], self.y[rows]


def accuracy(outputs: Tensor, y: Tensor) -> float:
    """Return 100 times the share of right classes; outputs (…, classes)."""
    return 100.0 * (outputs.argmax(-1) == y).float().mean().item()


def r_squared(outputs: Tensor, y: Tensor) -> float:
    """Return 100 · max(0, R²)."""
    return 100.0 * max(0.0, 1.0 - ((outputs - y).square().mean() / y.var(unbiased=False)).item())


def share_of(loss: float, start: float, best: float) -> float:
    """Return how much of the way from the loss `start` to `best` is done, from 0 to 100."""
    return 100.0 * min(1.0, max(0.0, (start - loss) / (start - best)))


def entropy(y: Tensor) -> float:
    """Return the entropy of the classes: the loss of the best constant prediction."""
    shares = torch.bincount(y.flatten()).double() / y.numel()
    return torch.special.entr(shares).sum().item()
