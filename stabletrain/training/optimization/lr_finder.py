"""Lightning's learning rate finder, on a copy of what is about to be trained."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import math
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.tuner.tuning import Tuner

from stabletrain.errors import RequestError
from stabletrain.torch_tools.isolation import preserve_rng
from stabletrain.training.module import TrainingModule

MIN_LR, MAX_LR, NUM_STEPS = 1e-7, 1.0, 100  # Lightning's own, but for the least: 1e-8 learns nothing


MARGIN = 0.1  # one decade below where the loss is lowest, because beyond that it rises


@dataclass(frozen=True)
class FoundRate:
    """What the finder saw.

    Attributes:
        lr: The suggestion: a tenth of the rate at which the loss was lowest.
        num_steps: How many rates were tried.
        highest: The highest of them; beyond it the loss had grown fourfold.
    """

    lr: float
    num_steps: int
    highest: float


class _Probe(TrainingModule):
    """A training module that asks for its rate, and goes on whatever its gradient is."""

    lr: float

    def configure_optimizers(self) -> Any:
        """Return the optimizer alone, at the rate that is being tried."""
        configured = super().configure_optimizers()
        optimizer = configured["optimizer"]
        for group in optimizer.param_groups:
            group["lr"] = self.lr
        return optimizer

    def check_norm(self, norm: float) -> None:
        """Go on: the finder itself stops where the loss has grown fourfold."""


def find_lr(module: TrainingModule, datamodule: pl.LightningDataModule, lr: float, accelerator: str) -> FoundRate:
    """Raise the rate step by step over seven decades; return a tenth of where the loss is lowest.

    Nothing is changed: the search trains a copy, and logs and saves nothing.

    Args:
        module: What is about to be trained.
        datamodule: What it is trained on.
        lr: The rate that is configured.
        accelerator: As in the trainer; one device is used.

    Raises:
        RequestError: The loss falls nowhere.

    References:
        Smith 2017, Cyclical Learning Rates for Training Neural Networks, section 3.3.
    """
    probe = copy.deepcopy(module)
    probe.__class__ = _Probe
    setattr(probe, "lr", lr)  # noqa: B010 (what the tuner looks for)
    logging.getLogger("pytorch_lightning.tuner.lr_finder").setLevel(logging.WARNING)
    with preserve_rng(), tempfile.TemporaryDirectory() as folder, _quiet():
        finder = Tuner(_trainer(accelerator, folder)).lr_find(
            probe, datamodule=datamodule, min_lr=MIN_LR, max_lr=MAX_LR, num_training=NUM_STEPS, update_attr=False
        )
    suggestion = suggest(finder.results["lr"], finder.results["loss"]) if finder is not None else None
    if finder is None or suggestion is None:
        raise RequestError(
            "The learning rate finder found no rate at which the loss falls.",
            key="lr_find",
            found="true",
            allowed="true or false",
            closest="false",
            command="optimizer.lr=1e-3",
        )
    tried = finder.results["lr"]
    return FoundRate(float(f"{suggestion:.3g}"), len(tried), float(max(tried)))


def suggest(rates: Sequence[float], losses: Sequence[float]) -> float | None:
    """Return a tenth of the rate at which the smoothed loss is lowest; None if that is the first.

    Lightning's own suggestion, the steepest point, is often noise: over six runs of an MLP on digits it gave rates
    from 0.004 to 0.85 for plain SGD (`docs/LOG.md`).

    Args:
        rates: Rates in rising order.
        losses: Smoothed loss after a step at each, possibly not finite at the end.
    """
    decay = 0.98  # of Lightning's moving average, whose first value it halves: divided by 1 − decay², not 1 − decay
    corrected = [loss * (1 - decay ** (i + 2)) / (1 - decay ** (i + 1)) for i, loss in enumerate(losses)]
    finite = [loss if math.isfinite(loss) else math.inf for loss in corrected]
    lowest = min(range(len(finite)), key=finite.__getitem__, default=0)
    return rates[lowest] * MARGIN if lowest > 0 and math.isfinite(finite[lowest]) else None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the finder's progress bar out of logs and pipes."""
    if sys.stderr.isatty():
        yield
        return
    with contextlib.redirect_stderr(io.StringIO()):
        yield


def _trainer(accelerator: str, folder: str) -> pl.Trainer:
    return pl.Trainer(
        default_root_dir=folder,
        accelerator=accelerator,
        devices=1,
        max_epochs=-1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
    )
