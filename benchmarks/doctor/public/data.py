"""The programs' data. What no package ships is replaced by the nearest that one does, or by a generator."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

CLASSES, BINARY, REGRESSION = "classes", "binary", "regression"


@dataclass(frozen=True)
class Data:
    """Training and test set.

    Attributes:
        x: [examples, ...].
        y: [examples] labels of `CLASSES`, else [examples, outputs].
        x_test: Like `x`.
        y_test: Like `y`.
        task: `CLASSES`, `BINARY` (each output is 0 or 1) or `REGRESSION`.
        num_classes: Of `CLASSES`.
    """

    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor
    task: str
    num_classes: int = 0


DATA: dict[str, Callable[[], Data]] = {}


def named(function: Callable[[], Data]) -> Callable[[], Data]:
    """Register data under the function's name (decorator)."""
    DATA[function.__name__] = function
    return function


@cache
def make_data(name: str) -> Data:
    """Return data by name, the same on each call."""
    return DATA[name]()


def _generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def _split(x, y, task: str, num_classes: int = 0, share: float = 0.8) -> Data:
    """Shuffle and split; `share` 1 tests on the training set itself."""
    x, y = torch.as_tensor(np.asarray(x)).float(), torch.as_tensor(np.asarray(y))
    y = y.long() if task == CLASSES else y.float().reshape(len(y), -1)
    order = torch.from_numpy(_generator(18).permutation(len(x)))
    x, y = x[order], y[order]
    if share == 1:
        return Data(x, y, x, y, task, num_classes)
    cut = round(share * len(x))
    return Data(x[:cut], y[:cut], x[cut:], y[cut:], task, num_classes)


def _digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits  # takes over a second to import

    digits = load_digits()
    return digits.data / 16, digits.target


def _table(num_rows: int, num_columns: int, seed: int, noise: float = 0.02) -> tuple[np.ndarray, np.ndarray]:
    """Return a table of two classes, all columns of deviation near 1."""
    from sklearn.datasets import make_classification

    return make_classification(
        num_rows,
        num_columns,
        n_informative=num_columns // 2,
        n_redundant=num_columns // 4,
        flip_y=noise,
        class_sep=1.5,
        random_state=seed,
    )


@named
def digits() -> Data:
    """In place of MNIST: scikit-learn's digits as vectors between 0 and 1."""
    return _split(*_digits(), CLASSES, 10)


@named
def digits_raw() -> Data:
    """In place of raw MNIST: the digits as vectors between 0 and 255."""
    x, y = _digits()
    return _split(255 * x, y, CLASSES, 10)


@named
def digit_images() -> Data:
    """In place of MNIST and of other images: the digits as [1, 8, 8] between 0 and 1."""
    x, y = _digits()
    return _split(x.reshape(-1, 1, 8, 8), y, CLASSES, 10)


@named
def digit_images_without_labels() -> Data:
    """Digits whose training labels are all 0, as labels divided by 255 are for an integer loss."""
    data = digit_images()
    return Data(data.x, torch.zeros_like(data.y), data.x_test, data.y_test, CLASSES, 10)


@named
def three_digit_images() -> Data:
    """In place of photographs of three classes of damage: the digits 0 to 2 as images."""
    x, y = _digits()
    return _split(x[y < 3].reshape(-1, 1, 8, 8), y[y < 3], CLASSES, 3)


@named
def colored_digit_images() -> Data:
    """In place of traffic signs: the digits as [3, 8, 8], colored at random, between -0.5 and 0.5."""
    x, y = _digits()
    colors = _generator().uniform(0.5, 1, (len(x), 3, 1, 1))
    return _split(x.reshape(-1, 1, 8, 8) * colors - 0.5, y, CLASSES, 10)


@named
def random_images() -> Data:
    """100 random images [3, 12, 12] with random labels, tested on themselves."""
    rng = _generator()
    return _split(rng.random((100, 3, 12, 12)), rng.integers(10, size=100), CLASSES, 10, share=1)


@named
def xor() -> Data:
    """The four rows of exclusive or, tested on themselves."""
    return _split([[1, 1], [1, 0], [0, 0], [0, 1]], [0, 1, 0, 1], BINARY, share=1)


@named
def xor_of_six() -> Data:
    """Exclusive or with two rows repeated, tested on themselves."""
    x = [[1, 1], [0, 0], [1, 0], [0, 1], [1, 1], [0, 0]]
    return _split(x, [0, 0, 1, 1, 0, 0], BINARY, share=1)


@named
def two_boxes() -> Data:
    """Two features between 0.2 and 0.4, or between 0.5 and 0.7."""
    rng = _generator()
    x = np.concatenate([rng.uniform(0.2, 0.4, (100, 2)), rng.uniform(0.5, 0.7, (100, 2))])
    return _split(x, np.repeat([0, 1], 100), CLASSES, 2)


@named
def signed_target() -> Data:
    """Two features of a small table, and a target of both signs."""
    x = _generator().normal(0.5, 0.8, (60, 2))
    return _split(x, np.tanh(x[:, 0] - x[:, 1]), REGRESSION)


@named
def multilabel() -> Data:
    """20 counts and three labels that do not exclude each other."""
    from sklearn.datasets import make_multilabel_classification

    x, y = make_multilabel_classification(2000, 20, n_classes=3, random_state=0)
    return _split(x, y, BINARY)


@named
def one_label() -> Data:
    """Four counts and one label."""
    from sklearn.datasets import make_multilabel_classification

    x, y = make_multilabel_classification(500, 4, n_classes=2, n_labels=1, allow_unlabeled=True, random_state=2)
    return _split(x, y[:, 0], BINARY)


@named
def plane() -> Data:
    """A linear function of three inputs between 0 and 10,000."""
    x = _generator().uniform(0, 10_000, (1000, 3))
    return _split(x, x @ [2.0, 1.0, 0.5] + 2.2, REGRESSION)


@named
def constant_vectors() -> Data:
    """Vectors of 128 ones or zeros, and which of both."""
    bits = np.repeat([0, 1], 200)
    return _split(np.repeat(bits[:, None], 128, 1), bits, BINARY)


@named
def triples() -> Data:
    """20 triples of numbers from 65 to 70 of two kinds, tested on themselves."""
    rows = [[65, 66, 67], [68, 69, 70], [65, 66, 70], [68, 69, 67]]
    picked = [0, 1, 0, 1, 0, 0, 0, 1, 0, 1, 0, 2, 3, 2, 1, 1, 0, 1, 0, 0]
    return _split([rows[i] for i in picked], [i % 2 for i in picked], BINARY, share=1)


@named
def permuted_bytes() -> Data:
    """All 8-bit numbers and a random permutation of them, tested on themselves."""
    rng = _generator()
    bits = (np.arange(256)[:, None] >> np.arange(8)) & 1
    return _split(bits, bits[rng.permutation(256)], BINARY, share=1)


@named
def noisy_square() -> Data:
    """5 x² and cubed normal noise for 50 values from 0 to 5, tested on themselves."""
    x = np.arange(0, 5, 0.1)
    return _split(x[:, None], 5 * x**2 + _generator().normal(size=50) ** 3, REGRESSION, share=1)


@named
def measurements() -> Data:
    """In place of the adult census: scikit-learn's breast cancer, columns from 0.001 to 4,000."""
    from sklearn.datasets import load_breast_cancer

    table = load_breast_cancer()
    return _split(table.data, table.target, CLASSES, 2)


@named
def measurements_scaled() -> Data:
    """Breast cancer with columns of mean 0 and deviation 1 and one output."""
    from sklearn.datasets import load_breast_cancer

    table = load_breast_cancer()
    return _split((table.data - table.data.mean(0)) / table.data.std(0), table.target, BINARY)


@named
def iris() -> Data:
    """Fisher's iris, shipped by scikit-learn."""
    from sklearn.datasets import load_iris

    table = load_iris()
    return _split(table.data, table.target, CLASSES, 3)


@named
def fourth_power() -> Data:
    """x⁴ for 400 values from -100 to 100, tested on themselves."""
    x = np.arange(-100, 100, 0.5)
    return _split(x[:, None], x**4, REGRESSION, share=1)


@named
def sine_direction() -> Data:
    """Two consecutive values of a sine, and whether it rises."""
    t = np.arange(1, 201) * 2 * math.pi / 100
    now, before = np.sin(t), np.sin(t - 2 * math.pi / 100)
    return _split(np.stack([now, before], 1), now > before, BINARY)


@named
def counties() -> Data:
    """In place of election results by county: 16 columns with scales from 1 to 300,000, two classes."""
    x, y = _table(200, 16, seed=1)
    return _split((x + 3) * np.geomspace(1, 300_000, 16), y, CLASSES, 2)


@named
def passengers() -> Data:
    """In place of Titanic's passengers with encoded columns: 10 columns up to about 900, two classes."""
    x, y = _table(400, 10, seed=2, noise=0.1)
    return _split((x + 3) * np.geomspace(0.3, 150, 10), y, CLASSES, 2)


@named
def particles() -> Data:
    """In place of the Higgs challenge: 30 columns with scales of 1 to 200, one in ten values missing as -999."""
    x, y = _table(1000, 30, seed=3, noise=0.1)
    x = x * np.geomspace(1, 200, 30)
    x[_generator().random(x.shape) < 0.1] = -999
    return _split(x, y, BINARY)


@named
def packets() -> Data:
    """In place of a file of 20 network packets: 11 columns, two of them addresses near 3e9."""
    x, y = _table(100, 11, seed=4, noise=0.0)
    scale = np.array([1e2, 1e2, 6, 40, 5e4, 2e4, 12, 30, 6, 10, 200])
    shift = np.array([3232235770, 3232235779, 12, 128, 524288, 30000, 12, 60, 6, 10, 206])
    return _split(x * scale + shift, y, BINARY)


@named
def parabola() -> Data:
    """x² + 3 for 200 values from -10 to 10."""
    x = np.arange(-10, 10, 0.1)
    return _split(x[:, None], x**2 + 3, REGRESSION)


@named
def noise() -> Data:
    """Uniform inputs and uniform targets that have nothing to do with them."""
    rng = _generator()
    return _split(rng.random((500, 1)), rng.random((500, 1)), REGRESSION)


@named
def large_numbers() -> Data:
    """Numbers from 15,000 to 25,000, and whether they are below 20,000."""
    x = _generator().uniform(15_000, 25_000, (1000, 1))
    return _split(x, x < 20_000, BINARY)


@named
def decades() -> Data:
    """Numbers from 0 to 100, and which decade they are in."""
    x = _generator().uniform(0, 100, (1700, 1))
    return _split(x, (x[:, 0] // 10).clip(0, 9), CLASSES, 10)


@named
def remainders() -> Data:
    """20 bits of the numbers below 128, and the bits of their remainder by 7 as 20 outputs; tested on themselves."""
    numbers, places = np.arange(128)[:, None], np.arange(20)
    return _split((numbers >> places) & 1, (numbers % 7 >> places) & 1, BINARY, share=1)


@named
def padded_sequences() -> Data:
    """20 steps of 5 features and a class each: 1 or 2, or 0 where the sequence is padded with zeros."""
    return _sequences(num_classes=3)


@named
def two_class_sequences() -> Data:
    """The same with padding and the first class as one."""
    return _sequences(num_classes=2)


def _sequences(num_classes: int) -> Data:
    rng = _generator()
    labels = rng.integers(1, 3, (120, 20))
    labels[np.arange(20) >= rng.integers(5, 21, (120, 1))] = 0
    x = rng.normal(np.where(labels == 2, 2.0, 0.0)[..., None], 1.0, (120, 20, 5)) * (labels > 0)[..., None]
    if num_classes == 2:
        labels = (labels == 2).astype(int)
    return _split(x, labels, CLASSES, num_classes)


@named
def two_bricks() -> Data:
    """Volumes [3, 8, 8, 8] of ones or zeros, tested on themselves."""
    bits = np.repeat([0, 1], 120)
    return _split(np.ones((240, 3, 8, 8, 8)) * bits.reshape(-1, 1, 1, 1, 1), bits, CLASSES, 2, share=1)


@named
def sequence_classes() -> Data:
    """Sequences of 20 numbers whose class is the quarter in which the largest is."""
    x = _generator().normal(size=(800, 20, 1))
    return _split(x, x[:, :, 0].argmax(1) // 5, CLASSES, 4)


@named
def six_variables() -> Data:
    """Six variables of two uniform ones (their sum, product, quotient and power) that are to be reproduced."""
    a, b = _generator().uniform(0, 0.5, (2, 1000))
    x = np.stack([a, b, a + b, a * b, a / b, a**b], 1)
    return _split(x, x, REGRESSION)


@named
def polynomial() -> Data:
    """x⁴ + x³ - x on [0, 1]."""
    x = _generator().random((2000, 1))
    return _split(x, x**4 + x**3 - x, REGRESSION)


@named
def ramp() -> Data:
    """A line from 0 to 100 over [0, 1]."""
    x = np.arange(1, 1001)[:, None] / 1000
    return _split(x, 100 * x, REGRESSION)


@named
def sine() -> Data:
    """A sine of 1.75 periods over the integers from 0 to 999."""
    x = np.arange(1000)[:, None]
    return _split(x, np.sin(3.5 * math.pi * x / 1000), REGRESSION)


@named
def five_times() -> Data:
    """5 x on [1, 2]."""
    x = np.linspace(1, 2, 100)[:, None]
    return _split(x, 5 * x, REGRESSION)


@named
def prices() -> Data:
    """In place of house prices: scikit-learn's diabetes, targets times 1,000, columns of deviation 1."""
    from sklearn.datasets import load_diabetes

    table = load_diabetes()
    return _split(table.data / table.data.std(0), 1000 * table.target, REGRESSION)


@named
def areas_and_prices() -> Data:
    """A price near 300,000 that grows with an area of 50 to 300 and falls with an age of 0 to 100."""
    rng = _generator()
    x = rng.uniform([50, 0], [300, 100], (400, 2))
    return _split(x, 2000 * x[:, :1] - 1000 * x[:, 1:] + rng.normal(0, 5000, (400, 1)), REGRESSION)


@named
def game_of_life() -> Data:
    """Fields [1, 10, 10] of Conway's game, periodic, and their next states [64]."""
    fields = (_generator().random((600, 8, 8)) < 0.5).astype(int)
    shifts = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)]
    neighbors = sum(np.roll(fields, shift, (1, 2)) for shift in shifts)
    following = (neighbors == 3) | ((fields == 1) & (neighbors == 2))
    padded = np.pad(fields, ((0, 0), (1, 1), (1, 1)), mode="wrap")[:, None]
    return _split(padded, following.reshape(600, -1), BINARY)


@named
def keypoints() -> Data:
    """In place of faces: images [256] of two blobs, and 30 coordinates between -1 and 1 that they determine."""
    rng = _generator()
    centers = rng.uniform(-0.5, 0.5, (500, 4))
    grid = np.linspace(-1, 1, 16)
    columns, rows = np.meshgrid(grid, grid)
    blobs = [
        np.exp(-((columns - centers[:, i, None, None]) ** 2 + (rows - centers[:, i + 1, None, None]) ** 2) / 0.1)
        for i in (0, 2)
    ]
    targets = centers @ rng.normal(0, 0.4, (4, 30))
    return _split(np.maximum(*blobs).reshape(500, -1), targets, REGRESSION)


@named
def reviews() -> Data:
    """In place of film reviews: which of 2,000 words occur in a text of two opinions."""
    rng = _generator()
    opinion = rng.integers(2, size=1500)
    tendency = rng.normal(0, 0.35, 2000)
    frequency = rng.exponential(0.02, 2000).clip(0.001, 0.3)
    chances = (frequency * np.exp(np.outer(2 * opinion - 1, tendency))).clip(0, 1)
    return _split(rng.random((1500, 2000)) < chances, opinion, BINARY)
