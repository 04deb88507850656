"""Learning rate over time: pure functions of the step, with thin adapters."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from functools import partial
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau, StepLR

from stabletrain.errors import RequestError, require_range


def warmup_cosine_factor(step: int, num_warmup_steps: int, total_steps: int, min_factor: float = 0.0) -> float:
    """Return the factor on the base rate: linear warm-up, then half a cosine down to `min_factor`.

    With w warm-up steps, T steps in all and t the step from 0: (t+1)/w while t < w; afterwards
    m + (1-m)·(1 + cos(π·(t-w)/(T-w)))/2.

    Args:
        step: t, from 0.
        num_warmup_steps: w.
        total_steps: T; later steps stay at `min_factor`.
        min_factor: m, 0 to 1.

    References:
        Loshchilov and Hutter 2017, "SGDR", eq. 5; warm-up as in Goyal et al. 2017, section 2.2.
    """
    if step < num_warmup_steps:
        return (step + 1) / num_warmup_steps
    progress = (step - num_warmup_steps) / max(1, total_steps - num_warmup_steps)
    return min_factor + (1 - min_factor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


class Schedule(ABC):
    """A learning rate over time, attached to an optimizer when the length of the run is known."""

    @abstractmethod
    def attach(self, optimizer: Optimizer, total_steps: int) -> dict[str, Any]:
        """Return Lightning's optimizer configuration.

        Args:
            optimizer: Its current rates are the base.
            total_steps: Optimizer steps in the whole run, or -1 if unknown.
        """


class Constant(Schedule):
    """The learning rate stays as it is."""

    def attach(self, optimizer: Optimizer, total_steps: int) -> dict[str, Any]:
        """Return the optimizer alone."""
        return {"optimizer": optimizer}


class WarmupCosine(Schedule):
    """Linear warm-up, then a cosine down to a share of the base rate; see `warmup_cosine_factor`.

    Args:
        num_warmup_steps: Steps until the base rate is reached, from 0.
        min_factor: Share of the base rate at the end, 0 to 1.
    """

    def __init__(self, num_warmup_steps: int = 100, min_factor: float = 0.0) -> None:
        self.num_warmup_steps = require_range("num_warmup_steps", num_warmup_steps, 0)
        self.min_factor = require_range("min_factor", min_factor, 0.0, 1.0)

    def attach(self, optimizer: Optimizer, total_steps: int) -> dict[str, Any]:
        """Return the optimizer with a rate that changes at every step.

        Raises:
            RequestError: The run has no end, so the cosine has none.
        """
        if total_steps < 0:
            raise RequestError(
                "A cosine needs to know where the run ends.",
                key="trainer.max_epochs",
                found="no end",
                allowed="trainer.max_epochs or trainer.max_steps from 0",
            )
        factor = partial(
            warmup_cosine_factor,
            num_warmup_steps=self.num_warmup_steps,
            total_steps=total_steps,
            min_factor=self.min_factor,
        )
        return _configuration(optimizer, LambdaLR(optimizer, factor), "step")


class StepDecay(Schedule):
    """Multiply the rate by a factor every few epochs.

    Args:
        every_epochs: Epochs between two changes, from 1.
        factor: What the rate is multiplied with, above 0 up to 1.
    """

    def __init__(self, every_epochs: int = 10, factor: float = 0.5) -> None:
        self.every_epochs = require_range("every_epochs", every_epochs, 1)
        self.factor = require_range("factor", factor, 0.0, 1.0, open_minimum=True)

    def attach(self, optimizer: Optimizer, total_steps: int) -> dict[str, Any]:
        """Return the optimizer with a rate that changes at the end of an epoch."""
        return _configuration(optimizer, StepLR(optimizer, self.every_epochs, self.factor), "epoch")


class Plateau(Schedule):
    """Multiply the rate by a factor when the validation loss has stopped falling.

    Args:
        patience_epochs: Epochs without a new best before a change, from 0.
        factor: What the rate is multiplied with, between 0 and 1.
    """

    def __init__(self, patience_epochs: int = 5, factor: float = 0.1) -> None:
        self.patience_epochs = require_range("patience_epochs", patience_epochs, 0)
        self.factor = require_range("factor", factor, 0.0, 1.0, open_minimum=True, open_maximum=True)

    def attach(self, optimizer: Optimizer, total_steps: int) -> dict[str, Any]:
        """Return the optimizer with a rate that follows `val/loss`."""
        scheduler = ReduceLROnPlateau(optimizer, factor=self.factor, patience=self.patience_epochs)
        return _configuration(optimizer, scheduler, "epoch", monitor="val/loss")


def _configuration(
    optimizer: Optimizer, scheduler: LRScheduler | ReduceLROnPlateau, interval: str, monitor: str | None = None
) -> dict[str, Any]:
    settings: dict[str, Any] = {"scheduler": scheduler, "interval": interval}
    if monitor:
        settings["monitor"] = monitor
    return {"optimizer": optimizer, "lr_scheduler": settings}
