"""Measure the cost in a Lightning trainer: blocks of steps of a single fit, with the callback on and off in turn."""

from __future__ import annotations

import logging
import random
import time
import warnings
from pathlib import Path

import pytorch_lightning as pl
import torch
import yaml
from torch import Tensor
from torch.utils.data import DataLoader
from watching_workloads import Stepper

from stabletrain.training.callbacks import GradientWatch

CONF = Path(__file__).parents[1] / "conf/watch"
CADENCES = ("statistics_every", "histograms_every", "points_per_decade", "signals_every", "time_every")
OPTIONS = {  # and the number of steps after which its cadence repeats
    "gradient alone, every step": ({"statistics_every": 1, "histograms_every": 1, "signals": ["gradient"]}, 1),
    "`watch=every_step`": (yaml.safe_load((CONF / "every_step.yaml").read_text()), 50),
    "`watch=default`": (yaml.safe_load((CONF / "default.yaml").read_text()), 50),
}


class Module(pl.LightningModule):
    def __init__(self, stepper: Stepper) -> None:
        super().__init__()
        self.stepper, self.network = stepper, stepper.model

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.stepper.loss()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.stepper.optimizer


class Alternator(pl.Callback):
    """Turns the watch on for one block of each pair and off for the other, in random order, and times both."""

    def __init__(self, watch: GradientWatch, num_steps: int) -> None:
        self.num_steps, self.ratios, self.off_ms = num_steps, [], []
        self._watch, self._on = watch, {name: getattr(watch, name) for name in CADENCES}
        self._order, self._times, self._start = [True, False], {}, 0.0

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch, batch_idx: int) -> None:
        if batch_idx % self.num_steps:
            return
        if batch_idx:
            self._note()
        if not self._order:
            self._order = random.sample([True, False], 2)
        self._is_on = self._order.pop()
        for name, every in self._on.items():
            setattr(self._watch, name, every if self._is_on else 0)
        _wait()
        self._start = time.perf_counter()

    def _note(self) -> None:
        _wait()
        self._times[self._is_on] = time.perf_counter() - self._start
        if len(self._times) == 2:
            self.ratios.append(self._times[True] / self._times[False])
            self.off_ms.append(1e3 * self._times[False] / self.num_steps)
            self._times = {}


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def fit(stepper: Stepper, num_steps: int, callbacks: list[pl.Callback], folder: Path) -> None:
    """Train for `num_steps` in a trainer that does nothing except call its callbacks."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = pl.Trainer(
            max_steps=num_steps,
            accelerator=stepper.device.type if stepper.device.type == "cpu" else "gpu",
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
            callbacks=callbacks,
        )
        trainer.fit(Module(stepper), DataLoader([torch.zeros(1)] * num_steps, batch_size=None))


def compare_in_lightning(stepper: Stepper, option: str, num_steps: int, rounds: int, folder: Path) -> list[float]:
    """Return the ratio of watched to unwatched time for each pair of blocks, without the first pair."""
    settings, period = OPTIONS[option]
    watch = GradientWatch(**settings)
    alternator = Alternator(watch, max(1, round(num_steps / period)) * period)
    num_batches = 2 * alternator.num_steps * (rounds + 1) + 1
    fit(stepper, num_batches, [alternator, watch], folder)
    return alternator.ratios[1:]
