"""Lightning's learning rate finder, run on a copy of the module."""

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

MIN_LR, MAX_LR, NUM_STEPS = 1e-7, 1.0, 100  # Lightning's defaults, but for the minimum: nothing is learned at 1e-8
MARGIN = 0.1  # an order of magnitude below the rate of the lowest loss, above which the loss rises


@dataclass(frozen=True)
class FoundRate:
    """The result of the learning rate finder.

    Attributes:
        lr: The suggested rate: a tenth of the rate at which the loss was lowest.
        num_steps: Number of rates that were tried.
        highest: The highest of them, at which the loss had grown fourfold, or the end of the range.
    """

    lr: float
    num_steps: int
    highest: float


class _Probe(TrainingModule):
    """A training module whose learning rate is `lr`, and which does not stop at a non-finite gradient."""

    lr: float

    def configure_optimizers(self) -> Any:
        """Return the optimizer without a schedule, at the rate being tried."""
        configured = super().configure_optimizers()
        optimizer = configured["optimizer"]
        for group in optimizer.param_groups:
            group["lr"] = self.lr
        return optimizer

    def check_norm(self, norm: float) -> None:
        """Do nothing: the finder itself stops where the loss has grown fourfold."""


def find_lr(module: TrainingModule, datamodule: pl.LightningDataModule, lr: float, accelerator: str) -> FoundRate:
    """Train over seven orders of magnitude of learning rates; return a tenth of the rate with the lowest loss.

    The search trains a copy of the module, and logs and saves nothing.

    Args:
        module: The module to find a learning rate for.
        datamodule: Its data.
        lr: The configured learning rate.
        accelerator: As in the trainer; one device is used.

    Raises:
        RequestError: The loss does not fall at any rate.

    References:
        Smith 2017, Cyclical Learning Rates for Training Neural Networks, section 3.3.
    """
    probe = copy.deepcopy(module)
    probe.__class__ = _Probe  # it adds no state of its own
    setattr(probe, "lr", lr)  # noqa: B010 (the attribute that Lightning's tuner sets)
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

    Lightning's own suggestion, the steepest point, is often noise: over six runs of an MLP on digits it returned rates
    from 0.004 to 0.85 for plain SGD (`docs/LOG.md`).

    Args:
        rates: Rates in ascending order.
        losses: Smoothed loss after a step at each, possibly non-finite towards the end.
    """
    decay = 0.98  # of Lightning's moving average, which divides the first value by 1 − decay² instead of 1 − decay
    corrected = [loss * (1 - decay ** (i + 2)) / (1 - decay ** (i + 1)) for i, loss in enumerate(losses)]
    finite = [loss if math.isfinite(loss) else math.inf for loss in corrected]
    lowest = min(range(len(finite)), key=finite.__getitem__, default=0)
    return rates[lowest] * MARGIN if lowest > 0 and math.isfinite(finite[lowest]) else None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the finder's progress bar where stderr is not a terminal."""
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
