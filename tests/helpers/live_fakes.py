"""Write the record of a run step by step with the real `RecordWriter`, as a training that watches its gradient does."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from stabletrain.record.run_folder import RunFolder
from stabletrain.record.writer import RecordWriter
from stabletrain.signal.histogram import Histogram
from stabletrain.signal.snapshot import LayerStatistics, Snapshot
from stabletrain.vocabulary import metric_names as names
from stabletrain.vocabulary.signals import UPDATE, WEIGHT
from stabletrain.vocabulary.statuses import RUNNING

SIZE = 200
CHOICES = {
    "model": "mlp",
    "data": "digits",
    "activation": "sigmoid",
    "clip": "norm",
    "norm": "none",
    "optimizer": "sgd",
}


def layer_name(index: int) -> str:
    return f"L{index:02d}.layers.{index}.weight"


def histogram(log10_rms: float) -> Histogram:
    numbers = np.abs(np.random.default_rng(0).normal(size=SIZE) * 10.0**log10_rms).astype(np.float32)
    return Histogram(np.bincount(numbers.view(np.int32) >> 23, minlength=256).astype(np.int64))


class WrittenRun:
    """A run that is being written.

    Args:
        path: Its folder.
        num_layers: Number of layers.
        num_steps: Planned number of steps.
        choices: Chosen options.
        fields: More metadata, such as `run_name`.
    """

    def __init__(
        self,
        path: Path,
        *,
        num_layers: int = 6,
        num_steps: int = 200,
        choices: dict[str, str] | None = None,
        **fields: str,
    ) -> None:
        self.folder = RunFolder(path)
        self.num_layers = num_layers
        self.writer = RecordWriter(self.folder.events)
        training = {"num_steps": num_steps, "steps_per_epoch": 20, "prior_loss": 2.3, "num_dims": {}}
        choices = CHOICES if choices is None else choices
        self.writer.write_info({"choices": choices, "training": training, "command": "stabletrain model=mlp", **fields})
        self.folder.update_summary(status=RUNNING)

    def step(self, step: int, *, slope: float = 0.0, every: int = 10, loss: float | None = None) -> None:
        """Write one step; the gradient loses `slope` orders of magnitude per layer towards the input."""
        loss = 2.3 * math.exp(-step / 60) if loss is None else loss
        self.writer.write_scalars(step, {names.TRAIN_LOSS: loss, names.NORM_TOTAL: 1.0, names.NORM_AFTER: 1.0})
        if step % every == 0:
            self.writer.write_snapshot(self.snapshot(step, slope))

    def snapshot(self, step: int, slope: float) -> Snapshot:
        """Return the statistics of one step: gradient with histograms, weights and updates."""
        sizes = [-2.0 - slope * (self.num_layers - 1 - k) for k in range(self.num_layers)]
        layers = tuple(LayerStatistics(layer_name(k), SIZE, 10.0**x, 0, histogram(x)) for k, x in enumerate(sizes))
        signals = {
            WEIGHT: tuple(LayerStatistics(layer_name(k), SIZE, 0.1, 0) for k in range(self.num_layers)),
            UPDATE: tuple(LayerStatistics(layer_name(k), SIZE, 0.1 * 10.0**x, 0) for k, x in enumerate(sizes)),
        }
        return Snapshot(step, layers, signals)

    def steps(self, steps: range, **options: float) -> WrittenRun:
        """Write several steps and flush."""
        for step in steps:
            self.step(step, **options)  # pyright: ignore[reportArgumentType]
        self.writer.flush()
        return self

    def end(self, **summary: object) -> None:
        """Close the record and write the final summary."""
        self.writer.close()
        self.folder.update_summary(**summary)
