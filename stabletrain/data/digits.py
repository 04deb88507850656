"""Handwritten digits of 8 × 8 pixels: a real data set without a download, on which training takes seconds."""

from __future__ import annotations

import importlib.util
from pathlib import Path
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
MAX_PIXEL = 16.0  # each pixel is the number of dark pixels in a 4 × 4 block (Alpaydin and Kaynak 1998)
PIXEL_MEAN = 0.30526  # of all pixels of all 1797 images, after division by MAX_PIXEL
PIXEL_STD = 0.37605
MIN_PER_SPLIT = 2 * NUM_CLASSES  # two of each class, so that every split can be stratified

# Shape of one image by form, the default first. `rows` is another name for `sequence`.
SHAPES: dict[str, tuple[int, ...]] = {
    "vector": (64,),
    "image": (1, 8, 8),
    "sequence": (8, 8),  # 8 steps of one row
    "rows": (8, 8),
    "pixels": (64, 1),  # 64 steps of one pixel, row by row, as in Le et al. 2015
}


@final
class Digits(Data):
    """1797 gray images of handwritten digits, ten classes (Alpaydin and Kaynak 1998).

    Pixels are standardized by two constants, the mean and the standard deviation over all pixels of the data set.
    Initializations are derived for inputs of mean 0 and mean square 1 (LeCun et al. 1998, section 4.3; He et al.
    2015, section 2.2), while raw pixels in [0, 1] have a mean square of 0.23. With one pair of constants for all
    pixels, the three constant pixels at the border stay finite and the inputs do not depend on the split; the price
    is that the test images contribute to these two numbers.

    Args:
        batch_size: Global batch size, from 1 to the size of the training set. 32 is the usual small batch
            (Masters and Luschi 2018 find the best results up to 32): 40 steps per epoch.
        form: ``vector`` (64), ``image`` (1, 8, 8), ``sequence`` or ``rows`` (8 steps of 8), ``pixels`` (64 steps
            of 1); ``auto`` is ``vector``, the layout of scikit-learn's `load_digits`.
        val_fraction: Fraction of all images used for validation, above 0. 0.15 gives 270 images, each worth
            0.4% of accuracy.
        test_fraction: Fraction of all images used for testing, above 0; the two fractions add up to less than 1.
        seed: Seed of the stratified split, from 0 to 2³² - 1. It assigns images to all three splits.

    Raises:
        RequestError: An argument is out of range, or a split would contain fewer than two images of each class.

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
        """Where the data come from, in one sentence."""
        return (
            "Optical recognition of handwritten digits (Alpaydin and Kaynak 1998), its test set of 1797 images "
            "as shipped with scikit-learn, pixels standardized by "
            f"mean {PIXEL_MEAN} and standard deviation {PIXEL_STD}."
        )


def _meaning(form: str) -> str:
    return "sequence" if form in ("rows", "pixels") else form


def _load_digits() -> tuple[np.ndarray, np.ndarray]:
    """Return standardized images, float32 (1797, 64), and labels, int64 (1797,)."""
    table = _read_table()
    images = (table[:, :-1] / MAX_PIXEL - PIXEL_MEAN) / PIXEL_STD
    return images.astype(np.float32), table[:, -1].astype(np.int64)


def _read_table() -> np.ndarray:
    """Return pixels and label of each image, float64 (1797, 65), from scikit-learn's file.

    scikit-learn takes seconds to import, and is imported only if another version of it keeps the file elsewhere.
    """
    spec = importlib.util.find_spec("sklearn")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / "datasets" / "data" / "digits.csv.gz"
        if path.is_file():
            return np.loadtxt(path, delimiter=",")
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    return np.column_stack([bunch.data, bunch.target])
