"""MNIST-1D: ten one-dimensional shapes, shifted, stretched and noisy, drawn on the spot."""

from __future__ import annotations

from functools import lru_cache
from typing import ClassVar, final

import numpy as np
import torch

from stabletrain.data.base import MAX_SEED, Data, Split, Task, require_count, resolve_form
from stabletrain.data.extras import require_package
from stabletrain.data.splits import cut_rows
from stabletrain.torch_tools.isolation import preserve_rng

NUM_CLASSES = 10
NUM_VAL = 500  # of the source's 4,000 for training: one sequence is 0.2 % of accuracy


@final
class Mnist1d(Data):
    """4,000 sequences of 40 steps to learn from and 1,000 to test on: ten classes, digits in one dimension.

    Each is a template of 12 points, padded, shifted, scaled, sheared and noisy. The source draws them with one seed and
    standardises them by the mean and the deviation of all; its test set stays the test set, so that accuracies
    compare with published ones. 500 of the others validate.

    Args:
        batch_size: Global batch size, from 1 to 3,500. 100 as in the source.
        form: ``sequence`` (40 steps of 1) or ``vector`` (40); ``auto`` is ``sequence``.
        seed: Which sequences validate, from 0 to 2³² - 1.

    Raises:
        RequestError: An argument is out of its range, or mnist1d is not installed.

    References:
        Greydanus and Kobak 2024, Scaling Down Deep Learning with MNIST-1D.
    """

    name: ClassVar[str] = "mnist1d"
    forms: ClassVar[tuple[str, ...]] = ("sequence", "vector")
    task: Task = "classification"

    def __init__(self, batch_size: int = 100, form: str = "auto", seed: int = 0) -> None:
        require_count("batch_size", batch_size)
        form = resolve_form(form, self.forms)
        seed = require_count("seed", seed, 0, MAX_SEED)
        (inputs, labels), test = _draw()
        train, val = (
            _pair(inputs[rows], labels[rows], form) for rows in cut_rows(np.arange(len(labels)), NUM_VAL, seed, labels)
        )
        super().__init__(train, val, _pair(*test, form), batch_size=batch_size, form=form, num_outputs=NUM_CLASSES)

    @property
    def source(self) -> str:
        """One sentence that says where the numbers come from."""
        return "MNIST-1D (Greydanus and Kobak 2024), drawn by the package mnist1d with its own seed."


@lru_cache(maxsize=1)
def _draw() -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Return the source's training and test set: sequences, float64 (N, 40), and labels (N,); this takes seconds."""
    package = require_package("mnist1d.data", "data")
    with preserve_rng():  # the package seeds numpy's and Python's
        drawn = package.make_dataset(package.get_dataset_args())
    return (drawn["x"], drawn["y"]), (drawn["x_test"], drawn["y_test"])


def _pair(inputs: np.ndarray, labels: np.ndarray, form: str) -> Split:
    x = torch.from_numpy(inputs.astype(np.float32))
    return (x if form == "vector" else x.unsqueeze(-1)), torch.from_numpy(labels.astype(np.int64))
