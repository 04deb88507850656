"""Points in a plane: what can be drawn, and learned in seconds."""

from __future__ import annotations

from typing import Any, ClassVar, final

import numpy as np
import torch

from stabletrain.data.base import MAX_SEED, Data, Split, Task, require_count, resolve_form
from stabletrain.data.splits import split_rows, split_sizes
from stabletrain.errors import RequestError, require_range

FRACTION = 0.15  # of the points that validates, and that tests
MIN_SAMPLES = 20  # three of them validate
MIN_PER_CLASS = 10  # one of each class in the smaller splits


@final
class Circles(Data):
    """Two rings, one inside the other: no line parts them, so that a linear network cannot learn this.

    A class is (cos φ, sin φ) or factor · (cos φ, sin φ), with Gaussian noise added. 70, 15 and 15 % of the points
    train, validate and test; both coordinates are standardised by the training points.

    Args:
        batch_size: Global batch size, from 1 to the size of the training set. 32 as in `Digits`.
        num_samples: Points in all, from 20. 2000 are 43 steps an epoch.
        noise: Standard deviation of the noise, from 0. At 0.1 the rings are five deviations apart.
        factor: Radius of the inner ring, between 0 and 1; the outer one has radius 1.
        form: ``vector`` (2); ``auto`` is the same.
        seed: Which points and which split, from 0 to 2³² - 1.

    Raises:
        RequestError: An argument is out of its range.

    Example:
        >>> Circles(num_samples=200).num_inputs
        2
    """

    name: ClassVar[str] = "circles"
    forms: ClassVar[tuple[str, ...]] = ("vector",)
    task: Task = "classification"

    def __init__(
        self,
        batch_size: int = 32,
        num_samples: int = 2000,
        noise: float = 0.1,
        factor: float = 0.5,
        form: str = "auto",
        seed: int = 0,
    ) -> None:
        require_count("batch_size", batch_size)
        require_range("noise", noise, 0.0)
        require_range("factor", factor, 0.0, 1.0, open_minimum=True, open_maximum=True)
        form, seed = resolve_form(form, self.forms), require_count("seed", seed, 0, MAX_SEED)
        require_count("num_samples", num_samples, MIN_SAMPLES)
        from sklearn.datasets import make_circles  # over a second to import

        points, labels = make_circles(num_samples, noise=noise, factor=factor, random_state=seed)
        splits = _split(points, labels, seed)
        super().__init__(*splits, batch_size=batch_size, form=form, num_outputs=2)

    @property
    def source(self) -> str:
        """One sentence that says where the numbers come from."""
        return "Two noisy rings, drawn by scikit-learn's make_circles and standardised by the training set."


@final
class Blobs(Data):
    """Gaussian clouds, one a class: easy enough that whatever does not learn them is broken.

    70, 15 and 15 % of the points train, validate and test; every feature is standardised by the training points.

    Args:
        batch_size: Global batch size, from 1 to the size of the training set. 32 as in `Digits`.
        num_samples: Points in all, from 20 and from 10 a class. 2000 are 43 steps an epoch.
        num_classes: Clouds, from 2.
        num_features: Dimensions, from 1.
        std: Standard deviation of a cloud, above 0; centres are drawn from a cube of edge 20, so that two clouds in a
            plane may touch.
        form: ``vector``; ``auto`` is the same.
        seed: Which points and which split, from 0 to 2³² - 1.

    Raises:
        RequestError: An argument is out of its range.

    Example:
        >>> Blobs(num_features=3, num_classes=5).num_outputs
        5
    """

    name: ClassVar[str] = "blobs"
    forms: ClassVar[tuple[str, ...]] = ("vector",)
    task: Task = "classification"

    def __init__(
        self,
        batch_size: int = 32,
        num_samples: int = 2000,
        num_classes: int = 4,
        num_features: int = 2,
        std: float = 1.0,
        form: str = "auto",
        seed: int = 0,
    ) -> None:
        require_count("batch_size", batch_size)
        require_count("num_classes", num_classes, 2)
        require_count("num_features", num_features)
        require_range("std", std, 0.0, open_minimum=True)
        form, seed = resolve_form(form, self.forms), require_count("seed", seed, 0, MAX_SEED)
        least = max(MIN_SAMPLES, MIN_PER_CLASS * num_classes)
        try:
            require_count("num_samples", num_samples, least)
        except RequestError as error:
            error.closest = str(least)  # the default may be too few for so many classes
            raise
        from sklearn.datasets import make_blobs  # over a second to import

        points, labels, *_ = make_blobs(
            num_samples, num_features, centers=num_classes, cluster_std=std, random_state=seed
        )
        splits = _split(points, labels, seed)
        super().__init__(*splits, batch_size=batch_size, form=form, num_outputs=num_classes)

    @property
    def source(self) -> str:
        """One sentence that says where the numbers come from."""
        return "Gaussian clouds, drawn by scikit-learn's make_blobs and standardised by the training set."


def _split(points: Any, labels: Any, seed: int) -> list[Split]:
    """Return the three splits, stratified, standardised feature by feature."""
    points, labels = np.asarray(points), np.asarray(labels)
    num_val, num_test = split_sizes(len(labels), FRACTION, FRACTION, 1, "points")
    rows = split_rows(len(labels), num_val, num_test, seed, labels)
    mean, std = points[rows[0]].mean(axis=0), points[rows[0]].std(axis=0)
    points, labels = ((points - mean) / std).astype(np.float32), labels.astype(np.int64)
    return [(torch.from_numpy(points[part]), torch.from_numpy(labels[part])) for part in rows]
