"""Splitting into training, validation and test sets: sizes from two fractions, rows from a seed."""

from __future__ import annotations

import math

import numpy as np

from stabletrain.data.base import require_fraction
from stabletrain.errors import RequestError


def split_sizes(
    num_examples: int, val_fraction: float, test_fraction: float, minimum: int, noun: str
) -> tuple[int, int]:
    """Return the sizes of the validation and the test set.

    Args:
        num_examples: Total number of examples.
        val_fraction: Fraction of them for validation.
        test_fraction: Fraction of them for testing.
        minimum: Fewest examples of each of the three splits.
        noun: What the examples are, in the plural.

    Raises:
        RequestError: A fraction is not a number between 0 and 1, or one of the three splits falls below `minimum`.
    """
    sizes = {}
    for key, fraction in (("val_fraction", val_fraction), ("test_fraction", test_fraction)):
        sizes[key] = round(num_examples * require_fraction(key, fraction))
        if sizes[key] < minimum:
            least = f"{math.ceil(1000 * minimum / num_examples) / 1000:.3f}"
            raise RequestError(
                f"{key} gives a split of {sizes[key]} {noun}; it needs {minimum} or more.",
                key=key,
                found=fraction,
                allowed=f"a number from {least}",
                closest=least,
            )
    if num_examples - sum(sizes.values()) < minimum:
        raise RequestError(
            f"val_fraction and test_fraction leave too few {noun} to train on.",
            key="val_fraction",
            found=f"{val_fraction} beside test_fraction={test_fraction}",
            allowed=f"a sum of at most {1 - minimum / num_examples:.3f}",
        )
    return sizes["val_fraction"], sizes["test_fraction"]


def split_rows(
    num_examples: int, num_val: int, num_test: int, seed: int, labels: np.ndarray | None = None
) -> list[np.ndarray]:
    """Return the row numbers of the training, validation and test set.

    The split is stratified where possible, which takes two examples of every class and parts with room for every
    class. Otherwise, and without labels, it is purely random.

    Args:
        num_examples: Total number of examples.
        num_val: Size of the validation set.
        num_test: Size of the test set.
        seed: Seed of the split.
        labels: Class of each example (num_examples,), or None.
    """
    rest, test = cut_rows(np.arange(num_examples), num_test, seed, labels)
    train, val = cut_rows(rest, num_val, seed, labels)
    return [train, val, test]


def cut_rows(rows: np.ndarray, size: int, seed: int, labels: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows without a random subset of `size`, and that subset; stratified as in `split_rows`."""
    from sklearn.model_selection import train_test_split

    strata = None if labels is None else labels[rows]
    if strata is not None:
        counts = np.unique(strata, return_counts=True)[1]
        if counts.min() < 2 or min(size, len(rows) - size) < len(counts):
            strata = None
    kept, taken = train_test_split(rows, test_size=size, stratify=strata, random_state=seed)
    return np.asarray(kept), np.asarray(taken)
