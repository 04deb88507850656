"""Handwritten digits of 8 × 8 pixels: a real data set that needs no download and trains in seconds."""

from __future__ import annotations

from typing import Any, ClassVar, final

import numpy as np
import torch

from stabletrain.data.base import (
    MAX_SEED,
    Data,
    Task,
    require_count,
    resolve_form,
)
from stabletrain.data.splits import split_rows, split_sizes

NUM_CLASSES = 10
MAX_PIXEL = 16.0  # each pixel counts the dark ones of a 4 × 4 block (Alpaydin and Kaynak 1998)
PIXEL_MEAN = 0.30526  # of all pixels of all 1797 images, after division by MAX_PIXEL
PIXEL_STD = 0.37605
MIN_PER_SPLIT = 2 * NUM_CLASSES  # two of each class, so that every split can be stratified

# The shape of one image by form, the natural one first. `rows` is another name for `sequence`.
SHAPES: dict[str, tuple[int, ...]] = {
    "vector": (64,),
    "image": (1, 8, 8),
    "sequence": (8, 8),  # 8 steps of one row
    "rows": (8, 8),
    "pixels": (64, 1),  # 64 steps of one pixel, row by row, as in Le et al. 2015
}


@final
class Digits(Data):
    """1797 grey images of handwritten digits, ten classes (Alpaydin and Kaynak 1998).

    Pixels are standardised by two constants, the mean and the standard deviation of all pixels of the data set.
    Initialisations are derived for inputs of mean 0 and mean square 1 (LeCun et al. 1998, section 4.3; He et al.
    2015, section 2.2), and raw pixels in [0, 1] have a mean square of 0.23. One constant pair for all pixels keeps
    the three border pixels that never change finite, and does not depend on the split
    (the price: the test images have their part in these two numbers).

    Args:
        batch_size: Global batch size, from 1 to the size of the training set. 32 is the usual small batch
            (Masters and Luschi 2018 find the best results up to 32): 40 steps an epoch.
        form: ``vector`` (64), ``image`` (1, 8, 8), ``sequence`` or ``rows`` (8 steps of 8), ``pixels`` (64 steps
            of 1); ``auto`` is ``vector``, as scikit-learn's `load_digits` gives them.
        val_fraction: Share of all images that validates, above 0. 0.15 makes 270 images: one is 0.4 % of accuracy.
        test_fraction: Share of all images that tests, above 0; both shares together below 1.
        seed: Which stratified split, from 0 to 2³² - 1. It moves images between all three splits.

    Raises:
        RequestError: An argument is out of its range, or a split would hold fewer than two images of each class.

    Example:
        >>> Digits(form="pixels").num_steps
        64
    """

    name: ClassVar[str] = "digits"
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
        images, labels = _load_digits()
        num_val, num_test = split_sizes(len(labels), val_fraction, test_fraction, MIN_PER_SPLIT, "images")
        train, val, test = (
            (
                torch.from_numpy(images[rows].reshape(len(rows), *SHAPES[form])),
                torch.from_numpy(labels[rows]),
            )
            for rows in split_rows(len(labels), num_val, num_test, seed, labels)
        )
        super().__init__(train, val, test, batch_size=batch_size, form=_meaning(form), num_outputs=NUM_CLASSES)

    @property
    def source(self) -> str:
        """One sentence that says where the numbers come from."""
        return (
            "Optical recognition of handwritten digits (Alpaydin and Kaynak 1998), its test set of 1797 images "
            f"as shipped with scikit-learn, pixels standardised by mean {PIXEL_MEAN} and deviation {PIXEL_STD}."
        )


def _meaning(form: str) -> str:
    return "sequence" if form in ("rows", "pixels") else form


def _load_digits() -> tuple[np.ndarray, np.ndarray]:
    """Return standardised images, float32 (1797, 64), and labels, int64 (1797,)."""
    from sklearn.datasets import load_digits  # over a second to import, and only this data set needs it

    bunch: Any = load_digits()
    images = (bunch.data / MAX_PIXEL - PIXEL_MEAN) / PIXEL_STD
    return images.astype(np.float32), bunch.target.astype(np.int64)
