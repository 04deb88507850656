"""Data of the wide part: scikit-learn's digits and Python's documentation."""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from stabletrain.data.text import read_text

NUM_VAL = 400
NUM_CHARACTERS = 40_000
LETTERS = "abcdefghijklmnopqrstuvwxyz ."


class Split(NamedTuple):
    """Training and validation data."""

    x: Tensor
    y: Tensor
    val_x: Tensor
    val_y: Tensor


def split(x: Tensor, y: Tensor) -> Split:
    """Return the first examples as validation data, the rest as training data."""
    count = min(NUM_VAL, len(x) // 4)
    return Split(x[count:], y[count:], x[:count], y[:count])


@functools.lru_cache(maxsize=2)
def digits(seed: int) -> Split:
    """Return the images (N, 64), standardized as a whole, and their classes (N,)."""
    from sklearn.datasets import load_digits

    images, y = load_digits(return_X_y=True)  # pyright: ignore[reportAssignmentType]
    order = np.random.default_rng((18, seed)).permutation(len(y))
    images = (images[order] - images.mean()) / images.std()
    return split(torch.tensor(images, dtype=torch.float32), torch.tensor(y[order], dtype=torch.int64))


def images(seed: int) -> Split:
    """Return the digits as images (N, 1, 8, 8)."""
    found = digits(seed)
    return Split(found.x.view(-1, 1, 8, 8), found.y, found.val_x.view(-1, 1, 8, 8), found.val_y)


@functools.lru_cache(maxsize=2)
def text(length: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return windows of `length` characters of Python's documentation, as indices: for training, and for validation."""
    letters = [c if c in LETTERS else " " for c in read_text(None, NUM_CHARACTERS).lower()]
    codes = torch.tensor([LETTERS.index(c) for c in " ".join("".join(letters).split())])
    windows = codes[: len(codes) // length * length].view(-1, length)
    windows = windows[torch.randperm(len(windows), generator=torch.Generator().manual_seed(seed))]
    count = len(windows) // 5
    return windows[count:], windows[:count]


def moons(count: int, generator: torch.Generator) -> Tensor:
    """Return points (count, 2) of two interleaving half circles, about standardized."""
    angle = torch.pi * torch.rand(count, generator=generator)
    is_lower = torch.rand(count, generator=generator) < 0.5
    x = torch.where(is_lower, 1 - angle.cos(), angle.cos())
    y = torch.where(is_lower, 0.5 - angle.sin(), angle.sin())
    points = torch.stack([x - 0.5, y - 0.25], 1) / torch.tensor([0.87, 0.5])
    return points + 0.1 * torch.randn(count, 2, generator=generator)


def generator_of(seed: int) -> torch.Generator:
    """Return a generator for data, apart from the global one that weights come from."""
    return torch.Generator().manual_seed(1000 + seed)
