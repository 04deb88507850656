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
    """Return the rows without a random subset of `size`, and that subset; stratified as in `split_rows`.

    The result is that of scikit-learn's `train_test_split`, which takes seconds to import.
    """
    random, codes = np.random.RandomState(seed), None
    if labels is not None:
        codes, counts = np.unique(labels[rows], return_inverse=True, return_counts=True)[1:]
        if counts.min() < 2 or min(size, len(rows) - size) < len(counts):
            codes = None
    if codes is None:
        order = random.permutation(len(rows))
        return rows[order[size:]], rows[order[:size]]
    kept, taken = _cut_strata(codes, size, random)
    return rows[kept], rows[taken]


def _cut_strata(codes: np.ndarray, size: int, random: np.random.RandomState) -> tuple[np.ndarray, np.ndarray]:
    """Return the shuffled positions of the kept and of the taken examples, each class in proportion."""
    counts = np.bincount(codes)
    num_kept = _share_out(len(codes) - size, counts, random)
    num_taken = _share_out(size, counts - num_kept, random)
    members = np.split(np.argsort(codes, kind="stable"), np.cumsum(counts)[:-1])
    kept, taken = [], []
    for positions, k, t in zip(members, num_kept, num_taken, strict=True):
        shuffled = positions[random.permutation(len(positions))]
        kept.append(shuffled[:k])
        taken.append(shuffled[k : k + t])
    return random.permutation(np.concatenate(kept)), random.permutation(np.concatenate(taken))


def _share_out(num: int, counts: np.ndarray, random: np.random.RandomState) -> np.ndarray:
    """Divide `num` draws among classes of the given sizes: whole parts first, then by the largest remainder.

    Classes with equal remainders are chosen at random.
    """
    exact = counts / counts.sum() * num
    shares = np.floor(exact)
    remainder, num_missing = exact - shares, int(num - shares.sum())
    for value in np.unique(remainder)[::-1]:
        if num_missing == 0:
            break
        tied = np.flatnonzero(remainder == value)
        chosen = random.choice(tied, size=min(len(tied), num_missing), replace=False)
        shares[chosen] += 1
        num_missing -= len(chosen)
    return shares.astype(int)
