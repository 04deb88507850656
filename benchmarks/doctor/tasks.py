"""The data of the benchmark: generated or shipped with installed packages, learned in a second or two."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from stabletrain.data.sequences import adding_problem
from stabletrain.data.text import read_text

NUM_VAL = 500
NUM_SYMBOLS = 8  # in the alphabet of `copy`
NUM_CHARACTERS = 60_000  # of the text
LETTERS = "abcdefghijklmnopqrstuvwxyz ."


class Task(NamedTuple):
    """Inputs and targets. In sequences, the last steps have targets."""

    x: Tensor  # (N, features), (N, 1, 8, 8) or (N, T, features)
    y: Tensor  # (N,) or (N, num_asked) classes, (N, 1) numbers
    val_x: Tensor
    val_y: Tensor
    num_outputs: int
    prior_loss: float  # loss of the best prediction that ignores the input

    @property
    def is_regression(self) -> bool:
        return self.y.is_floating_point()

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Return the mean loss."""
        if self.is_regression:
            return nn.functional.mse_loss(_answers(outputs, y), y)
        return nn.functional.cross_entropy(_answers(outputs, y), y.flatten())

    def score(self, outputs: Tensor, y: Tensor) -> float:
        """Return points: 100 times the accuracy, or 100 · max(0, R²); NaN for non-finite outputs."""
        answers = _answers(outputs, y)
        if not answers.isfinite().all():
            return math.nan
        if self.is_regression:
            return 100.0 * max(0.0, 1.0 - ((answers - y).square().mean() / y.var(unbiased=False)).item())
        return 100.0 * (answers.argmax(-1) == y.flatten()).float().mean().item()


def _answers(outputs: Tensor, y: Tensor) -> Tensor:
    return outputs[:, -y.shape[1] :].flatten(0, 1) if outputs.dim() == 3 else outputs


@functools.lru_cache(maxsize=4)
def make_task(name: str, family: str, seed: int) -> Task:
    """Return the data of a case.

    Args:
        name: The task, with its length if it has one.
        family: The family of the network: digits are vectors, images or rows.
        seed: Seed of the generated numbers, or of the split.
    """
    kind, _, length = name.partition("-")
    generator = np.random.default_rng((57, seed))
    if kind in PLANAR:
        x, y, num_outputs = PLANAR[kind](2000, generator)
        x = (x - x.mean(0)) / x.std(0)
    elif kind in ("digits", "pixels"):
        x, y, num_outputs = *_digits(kind, family, generator), 10
    else:
        x, y, num_outputs = SEQUENCES[kind](int(length), generator)
    x, y = torch.as_tensor(x, dtype=torch.float32), torch.as_tensor(y)
    num_val = min(NUM_VAL, len(x) // 4)
    val, train = slice(0, num_val), slice(num_val, None)
    return Task(x[train], y[train], x[val], y[val], num_outputs, _prior_loss(y))


def _prior_loss(y: Tensor) -> float:
    if y.is_floating_point():
        return y.var(unbiased=False).item()
    shares = torch.bincount(y.flatten()).double() / y.numel()
    return torch.special.entr(shares).sum().item()


def _circles(count: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray, int]:
    """Return two rings of radius 1 and 1/2, with noise of 0.1."""
    y = generator.integers(0, 2, count)
    angle = generator.uniform(0, 2 * np.pi, count)
    radius = np.where(y == 0, 1.0, 0.5)
    x = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)
    return x + generator.normal(0, 0.1, x.shape), y, 2


def _moons(count: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray, int]:
    """Return two interleaving half circles with noise of 0.15."""
    y = generator.integers(0, 2, count)
    angle = generator.uniform(0, np.pi, count)
    upper = np.stack([np.cos(angle), np.sin(angle)], 1)
    lower = np.stack([1 - np.cos(angle), 0.5 - np.sin(angle)], 1)
    x = np.where(y[:, None] == 0, upper, lower)
    return x + generator.normal(0, 0.15, x.shape), y, 2


def _blobs(count: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray, int]:
    """Return five Gaussian clusters in four dimensions, with centers 5 standard deviations from the origin."""
    centres = generator.normal(size=(5, 4))
    centres *= 5.0 / np.linalg.norm(centres, axis=1, keepdims=True)
    y = generator.integers(0, 5, count)
    return centres[y] + generator.normal(size=(count, 4)), y, 5


def _digits(kind: str, family: str, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return scikit-learn's 1797 images of 8 × 8, standardized as a whole; `pixels` are sequences of 64 steps."""
    from sklearn.datasets import load_digits

    images, y = load_digits(return_X_y=True)  # pyright: ignore[reportAssignmentType]
    order = generator.permutation(len(y))
    images, y = (images[order] - images.mean()) / images.std(), y[order].astype(np.int64)
    if kind == "pixels":
        return images.reshape(-1, 64, 1), y[:, None]
    if family == "mlp":
        return images, y
    return (images.reshape(-1, 1, 8, 8), y) if family == "cnn" else (images.reshape(-1, 8, 8), y[:, None])


def _adding(length: int, generator: np.random.Generator) -> tuple[Tensor, Tensor, int]:
    """Return the adding problem: the sum of two marked numbers (Hochreiter and Schmidhuber 1997)."""
    x, y = adding_problem(4000, length, generator)
    return x, y, 1


def _copy(length: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray, int]:
    """Return the copy task with one symbol: one of eight, blanks, and a marker at which to output the symbol."""
    y = generator.integers(0, NUM_SYMBOLS, (2000, 1))
    shown = np.full((2000, length), NUM_SYMBOLS)
    shown[:, :1], shown[:, -1] = y, NUM_SYMBOLS + 1
    return np.eye(NUM_SYMBOLS + 2, dtype=np.float32)[shown], y, NUM_SYMBOLS


def _text(length: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray, int]:
    """Return Python's documentation in lower case to predict the next character, with other characters as spaces."""
    letters = [c if c in LETTERS else " " for c in read_text(None, NUM_CHARACTERS).lower()]
    text = " ".join("".join(letters).split())
    codes = np.array([LETTERS.index(c) for c in text])
    starts = generator.permutation((len(codes) - 1) // length) * length
    windows = codes[starts[:, None] + np.arange(length + 1)]
    return np.eye(len(LETTERS), dtype=np.float32)[windows[:, :-1]], windows[:, 1:], len(LETTERS)


PLANAR = {"circles": _circles, "moons": _moons, "blobs": _blobs}
SEQUENCES = {"adding": _adding, "copy": _copy, "text": _text}
