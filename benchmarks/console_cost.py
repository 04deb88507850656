"""Measure what showing progress costs: CPU microseconds a step, against Lightning's own bar and no bar at all.

    python benchmarks/console_cost.py --steps 1000 --rounds 3

Each round trains the same small network once per variant, in turn, on one thread. What is drawn goes to the null
device, as if it were a terminal.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import RichProgressBar
from rich.console import Console
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from stabletrain.training import GradientWatch
from stabletrain.training.callbacks.live_table import LiveTable
from stabletrain.training.callbacks.progress_bar import ProgressBar

NUM_LAYERS, WIDTH, BATCH_SIZE = 8, 16, 16
WARMUP_STEPS = 50
SIZE = {"force_terminal": True, "width": 100, "height": 60}


class Module(pl.LightningModule):
    """A small network.

    Args:
        logs: Whether to log the loss on every step, without which Lightning's bar does not show it.
    """

    def __init__(self, logs: bool) -> None:
        super().__init__()
        self.logs = logs
        layers = [m for _ in range(NUM_LAYERS) for m in (nn.Linear(WIDTH, WIDTH), nn.Tanh())]
        self.network = nn.Sequential(*layers, nn.Linear(WIDTH, 2))

    def training_step(self, batch, batch_idx):
        loss = nn.functional.cross_entropy(self.network(batch[0]), batch[1])
        if self.logs:
            self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-2)


class Meter(pl.Callback):
    """Takes CPU seconds after the first steps: of the process, of its main thread, and within the hooks of a bar.

    Args:
        bar: The callback to measure.
    """

    def __init__(self, bar: pl.Callback | None) -> None:
        self.inside_s = 0.0
        self.found: dict[str, float] = {}
        if bar is not None:
            for name in ("on_train_batch_start", "on_train_batch_end"):
                setattr(bar, name, self._timed(getattr(bar, name)))

    def _timed(self, hook: Callable[..., None]) -> Callable[..., None]:
        def timed(*arguments: Any) -> None:
            start = time.thread_time()
            hook(*arguments)
            self.inside_s += time.thread_time() - start

        return timed

    def _now(self) -> dict[str, float]:
        process, main = time.process_time(), time.thread_time()
        return {"process": process, "threads": process - main, "hooks": self.inside_s, "wall": time.perf_counter()}

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if batch_idx == WARMUP_STEPS:
            self.found = self._now()

    def on_train_epoch_end(self, trainer, module):
        self.found = {name: value - self.found[name] for name, value in self._now().items()}


def null() -> Any:
    """Return a file that swallows everything."""
    return open(os.devnull, "w")


VARIANTS: dict[str, tuple[Callable[[], pl.Callback | None], bool]] = {
    "none": (lambda: None, False),
    "`console=default`": (lambda: ProgressBar(Console(file=null(), **SIZE)), False),
    "`console=live`": (lambda: LiveTable(Console(file=null(), **SIZE)), False),
    "Lightning's `RichProgressBar`": (lambda: RichProgressBar(console_kwargs=SIZE | {"file": null()}), False),
    "the same, with the loss": (lambda: RichProgressBar(console_kwargs=SIZE | {"file": null()}), True),
}


def measure(variant: str, num_steps: int, folder: str) -> dict[str, float]:
    """Return microseconds a step: of the process, of its other threads, within the hooks, and of the clock."""
    make, logs = VARIANTS[variant]
    torch.manual_seed(0)
    x = torch.randn(BATCH_SIZE * num_steps, WIDTH)
    bar = make()
    meter = Meter(bar)
    trainer = pl.Trainer(
        max_epochs=1,
        logger=False,
        accelerator="cpu",
        callbacks=[GradientWatch(10, 50), *([] if bar is None else [bar]), meter],
        enable_progress_bar=isinstance(bar, RichProgressBar),
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=folder,
    )
    trainer.fit(Module(logs), DataLoader(TensorDataset(x, (x[:, 0] > 0).long()), batch_size=BATCH_SIZE))
    return {name: 1e6 * seconds / (num_steps - WARMUP_STEPS) for name, seconds in meter.found.items()}


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000, help="steps of one training")
    parser.add_argument("--rounds", type=int, default=3, help="trainings per variant")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    found: dict[str, list[dict[str, float]]] = {variant: [] for variant in VARIANTS}
    for number in range(arguments.rounds + 1):
        for variant in random.sample(list(VARIANTS), len(VARIANTS)):
            with tempfile.TemporaryDirectory() as folder:
                result = measure(variant, arguments.steps, folder)
            if number:  # the first round warms up
                found[variant].append(result)
    print("CPU microseconds per step: median (smallest … largest)\n")
    print("| progress bar | within its hooks | in other threads | whole process | wall |\n|---|---|---|---|---|")
    for variant, results in found.items():
        print(
            f"| {variant} | {' | '.join(_spread(results, name) for name in ('hooks', 'threads', 'process', 'wall'))} |"
        )


def _spread(results: list[dict[str, float]], name: str) -> str:
    values = sorted(result[name] for result in results)
    return f"{statistics.median(values):.1f} ({values[0]:.1f} … {values[-1]:.1f})"


if __name__ == "__main__":
    main()
