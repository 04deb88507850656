"""The loss of each step, taken where the backward pass begins, whatever a LightningModule returns or logs."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from torch import Tensor
from torch.optim import Optimizer

from stabletrain.inspection.optimizers import ALTERNATIONS


class BackwardLosses:
    """Collects the losses on which `backward` was called until the optimizers step.

    The loss of a step is the mean over its micro-batches; under manual optimization the sum of what was passed to
    `manual_backward`, over all optimizers that stepped.

    Attributes:
        graph: The last loss with its graph, until `take`; None before.
        last: The same without its graph, as it was passed to `backward`, but for a loss scale.
    """

    def __init__(self) -> None:
        self.graph: Tensor | None = None
        self.last: Tensor | None = None
        self._waiting: list[Tensor] = []  # since the last step of any optimizer
        self._by_optimizer: dict[int, Tensor] = {}
        self._last: int | None = None  # optimizer that stepped last on a loss of its own
        self._num_turns = 0

    @property
    def takes_turns(self) -> bool:
        """Whether optimizers step in turn, each on a loss of its own, as in a GAN."""
        return self._num_turns >= ALTERNATIONS

    def note(self, trainer: pl.Trainer, loss: Any) -> None:
        """Keep a loss whose backward pass begins."""
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            return
        self.graph = loss
        scaler: Any = getattr(trainer.precision_plugin, "scaler", None)
        loss = loss.detach().float()
        last = loss / scaler.get_scale() if scaler is not None else loss
        self.last = last
        self._waiting.append(last)

    def note_step(self, trainer: pl.Trainer, optimizer: Optimizer) -> None:
        """Assign the losses so far to an optimizer that is about to step."""
        if not self._waiting:
            return
        total = sum(self._waiting[1:], self._waiting[0])
        if trainer.lightning_module.automatic_optimization:  # Lightning has divided by the number of micro-batches
            total = total * (trainer.accumulate_grad_batches / len(self._waiting))
        self._num_turns += self._last not in (None, id(optimizer))
        self._last = id(optimizer)
        self._by_optimizer[id(optimizer)] = total
        self._waiting = []

    def take(self) -> Tensor | None:
        """Return the loss of the step, a scalar on the device; None if no optimizer has stepped since the last call."""
        losses = [*self._by_optimizer.values()]
        self._by_optimizer, self.graph = {}, None
        return sum(losses[1:], losses[0]) if losses else None

    def take_unfinished(self) -> Tensor | None:
        """Return a loss whose step was not taken, because its backward pass or what follows it raised."""
        waiting, self._waiting = self._waiting, []
        return waiting[-1] if waiting else self.take()
