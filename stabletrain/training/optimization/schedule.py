"""Learning rate over time: pure functions of the step, with thin adapters."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR, ReduceLROnPlateau, StepLR

from stabletrain.errors import RequestError, require_range
from stabletrain.vocabulary import metric_names as names


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


def warmup_stable_decay_factor(
    step: int, num_warmup_steps: int, total_steps: int, decay_fraction: float = 0.1, min_factor: float = 0.0
) -> float:
    """Return the factor on the base rate: linear warm-up, 1, and in the last steps linearly down to `min_factor`.

    With w warm-up steps, T steps in all, d = decay_fraction·T and t the step from 0: (t+1)/w while t < w; 1 while
    t < T-d; afterwards m + (1-m)·(T-t)/d.

    Args:
        step: t, from 0.
        num_warmup_steps: w.
        total_steps: T; later steps stay at `min_factor`.
        decay_fraction: Share of the steps that decay, above 0 up to 1.
        min_factor: m, 0 to 1.

    References:
        Hu et al. 2024, MiniCPM, eq. 1 (there with an exponential decay); linear as in Hägele et al. 2024, Scaling
        Laws and Compute-Optimal Training Beyond Fixed Training Durations, section 3.
    """
    if step < num_warmup_steps:
        return (step + 1) / num_warmup_steps
    left = max(0, total_steps - step) / max(1.0, decay_fraction * total_steps)
    return min_factor + (1 - min_factor) * min(1.0, left)


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
    """The learning rate stays as it is, after a linear warm-up if asked for.

    Args:
        num_warmup_steps: Steps until the base rate is reached, from 0.
    """

    def __init__(self, num_warmup_steps: int = 0) -> None:
        self.num_warmup_steps = require_range("num_warmup_steps", num_warmup_steps, 0)

    def attach(self, optimizer: Optimizer, total_steps: int) -> dict[str, Any]:
        """Return the optimizer, alone if there is no warm-up."""
        if self.num_warmup_steps == 0:
            return {"optimizer": optimizer}
        return _configuration(optimizer, LambdaLR(optimizer, self._factor), "step")

    def _factor(self, step: int) -> float:
        return min(1.0, (step + 1) / self.num_warmup_steps)


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
        _require_end(total_steps)
        factor = partial(
            warmup_cosine_factor,
            num_warmup_steps=self.num_warmup_steps,
            total_steps=total_steps,
            min_factor=self.min_factor,
        )
        return _configuration(optimizer, LambdaLR(optimizer, factor), "step")


class WarmupStableDecay(Schedule):
    """Linear warm-up, the base rate, and a linear decay at the end; see `warmup_stable_decay_factor`.

    Args:
        num_warmup_steps: Steps until the base rate is reached, from 0.
        decay_fraction: Share of all steps that decay, above 0 up to 1. 0.1 as in the source.
        min_factor: Share of the base rate at the end, 0 to 1.
    """

    def __init__(self, num_warmup_steps: int = 100, decay_fraction: float = 0.1, min_factor: float = 0.0) -> None:
        self.num_warmup_steps = require_range("num_warmup_steps", num_warmup_steps, 0)
        self.decay_fraction = require_range("decay_fraction", decay_fraction, 0.0, 1.0, open_minimum=True)
        self.min_factor = require_range("min_factor", min_factor, 0.0, 1.0)

    def attach(self, optimizer: Optimizer, total_steps: int) -> dict[str, Any]:
        """Return the optimizer with a rate that changes at every step.

        Raises:
            RequestError: The run has no end, so the decay has no beginning.
        """
        _require_end(total_steps)
        factor = partial(
            warmup_stable_decay_factor,
            num_warmup_steps=self.num_warmup_steps,
            total_steps=total_steps,
            decay_fraction=self.decay_fraction,
            min_factor=self.min_factor,
        )
        return _configuration(optimizer, LambdaLR(optimizer, factor), "step")


class OneCycle(Schedule):
    """torch's one-cycle policy: the rate up to the optimizer's own and down again, momentum the other way round.

    Args:
        num_warmup_steps: Steps until the optimizer's rate is reached, from 1; null for 30 % of all (torch's default).
        start_factor: Share of that rate at the start, above 0 up to 1. 0.04 is torch's 1/25.
        end_factor: Share of it at the end, above 0 up to 1. 4e-6 is torch's 1/25 · 1e-4.

    References:
        Smith and Topin 2018, Super-Convergence, section 3.
    """

    def __init__(
        self, num_warmup_steps: int | None = None, start_factor: float = 0.04, end_factor: float = 4e-6
    ) -> None:
        if num_warmup_steps is not None:
            require_range("num_warmup_steps", num_warmup_steps, 1)
        self.num_warmup_steps = num_warmup_steps
        self.start_factor = require_range("start_factor", start_factor, 0.0, 1.0, open_minimum=True)
        self.end_factor = require_range("end_factor", end_factor, 0.0, 1.0, open_minimum=True)

    def attach(self, optimizer: Optimizer, total_steps: int) -> dict[str, Any]:
        """Return the optimizer with a rate that changes at every step.

        Raises:
            RequestError: The run has no end, so the cycle has none.
        """
        _require_end(total_steps)
        num_points = total_steps + 1  # Lightning asks once more, after the last step
        share = 0.3 if self.num_warmup_steps is None else self.num_warmup_steps / num_points
        share = min(1.0, max(share, 2 / num_points))  # torch divides by zero where the way up has a single point
        has_momentum = "betas" in optimizer.defaults or bool(optimizer.defaults.get("momentum"))
        scheduler = OneCycleLR(
            optimizer,
            [group["lr"] for group in optimizer.param_groups],
            num_points,
            pct_start=share,
            cycle_momentum=has_momentum,
            div_factor=1 / self.start_factor,
            final_div_factor=self.start_factor / self.end_factor,
        )
        return _configuration(optimizer, scheduler, "step")


class TorchSchedule(Schedule):
    """A schedule of torch's, or of any other package that inherits from it, asked at the end of every epoch.

    Args:
        factory: Makes the scheduler for an optimizer.
    """

    def __init__(self, factory: Callable[[Optimizer], LRScheduler]) -> None:
        self._factory = factory

    def attach(self, optimizer: Optimizer, total_steps: int) -> dict[str, Any]:
        """Return the optimizer with the scheduler."""
        return _configuration(optimizer, self._factory(optimizer), "epoch")


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
        return _configuration(optimizer, scheduler, "epoch", monitor=names.VAL_LOSS)


def _require_end(total_steps: int) -> None:
    if total_steps < 0:
        raise RequestError(
            "This schedule needs to know where the run ends.",
            key="trainer.max_epochs",
            found="no end",
            allowed="trainer.max_epochs or trainer.max_steps from 0",
        )


def _configuration(
    optimizer: Optimizer, scheduler: LRScheduler | ReduceLROnPlateau, interval: str, monitor: str | None = None
) -> dict[str, Any]:
    settings: dict[str, Any] = {"scheduler": scheduler, "interval": interval}
    if monitor:
        settings["monitor"] = monitor
    return {"optimizer": optimizer, "lr_scheduler": settings}
