"""MNIST-1D: ten one-dimensional shapes, shifted, stretched and noisy, drawn on the spot."""

from __future__ import annotations

from typing import Any, ClassVar, final

import numpy as np
import torch

from stabletrain.data.base import MAX_SEED, Data, Split, Task, require_count, resolve_form
from stabletrain.data.extras import require_package
from stabletrain.data.splits import split_rows

NUM_CLASSES = 10
NUM_SAMPLES = 5000  # the source's 4,000 for training and 1,000 for testing
NUM_VAL = 500
_DATA_SEED = 42  # the source's own


@final
class Mnist1d(Data):
    """5,000 sequences of 40 steps, ten classes: hard for what has no sense of order, small enough for a CPU.

    3,500 train, 500 validate and 1,000 test. All are standardised by mean and deviation of the training set.

    Args:
        batch_size: Global batch size, from 1 to 3,500. 100 as in the source.
        form: ``sequence`` (40 steps of 1) or ``vector`` (40); ``auto`` is ``sequence``.
        seed: Which split, from 0 to 2³² - 1; the sequences stay the source's.

    Raises:
        RequestError: An argument is out of its range, or mnist1d is not installed.

    References:
        Greydanus and Kobak 2024, Scaling Down Deep Learning with MNIST-1D, section 2.
    """

    name: ClassVar[str] = "mnist1d"
    forms: ClassVar[tuple[str, ...]] = ("sequence", "vector")
    task: Task = "classification"

    def __init__(self, batch_size: int = 100, form: str = "auto", seed: int = 0) -> None:
        require_count("batch_size", batch_size)
        form = resolve_form(form, self.forms)
        seed = require_count("seed", seed, 0, MAX_SEED)
        inputs, labels = _draw()
        rows = split_rows(len(labels), NUM_VAL, len(labels) // 5, seed, labels)
        mean, std = inputs[rows[0]].mean(), inputs[rows[0]].std()
        inputs = ((inputs - mean) / std).astype(np.float32)
        splits: list[Split] = [
            (
                torch.from_numpy(inputs[part] if form == "vector" else inputs[part][..., None]),
                torch.from_numpy(labels[part]),
            )
            for part in rows
        ]
        super().__init__(*splits, batch_size=batch_size, form=form, num_outputs=NUM_CLASSES)

    @property
    def source(self) -> str:
        """One sentence that says where the numbers come from."""
        return "MNIST-1D (Greydanus and Kobak 2024), drawn by the package mnist1d with its own seed."


def _draw() -> tuple[np.ndarray, np.ndarray]:
    """Return sequences, float64 (5000, 40), and labels, int64 (5000,); numpy's and Python's seeds stay as they are."""
    import random

    package = require_package("mnist1d.data", "data")
    arguments = package.get_dataset_args()
    arguments.num_samples, arguments.seed = NUM_SAMPLES, _DATA_SEED
    states: tuple[Any, Any] = (np.random.get_state(), random.getstate())
    torch_state = torch.get_rng_state()
    try:
        drawn = package.make_dataset(arguments)
    finally:
        np.random.set_state(states[0])
        random.setstate(states[1])
        torch.set_rng_state(torch_state)
    inputs = np.concatenate([drawn["x"], drawn["x_test"]])
    return inputs, np.concatenate([drawn["y"], drawn["y_test"]]).astype(np.int64)
