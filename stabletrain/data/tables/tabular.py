"""A data frame of which one column is predicted from the others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from stabletrain.data.base import Data, Split, Task
from stabletrain.data.splits import split_rows, split_sizes
from stabletrain.data.tables.columns import encode_features, encode_pixels, kind_of, plain_values, standardize
from stabletrain.errors import RequestError

if TYPE_CHECKING:
    import pandas as pd

MAX_CLASSES = 20  # distinct integers that are still taken as classes; ratings and grades have fewer, counts more
MIN_PER_SPLIT = 2  # a standard deviation needs two
MIN_ROWS = 3 * MIN_PER_SPLIT
MIN_PER_CLASS = 3  # one for each split
STANDARDIZED = "standardized by mean and standard deviation of the training set"


class Tabular(Data):
    """A data frame without missing values, of which one column is predicted from the others; see `Table`.

    Args:
        table: Columns of numbers, booleans, text or categories; the target column is removed from it.
        target: Name of the column to predict.
        task: ``classification``, ``regression`` or ``auto``.
        batch_size: Global batch size.
        form: What the shape of one input means.
        fractions: Fractions of the rows for validation and for testing.
        seed: Seed of the split.
        image_shape: Channels, height and width if a row is an image, else None.
    """

    def __init__(
        self,
        table: pd.DataFrame,
        target: str,
        *,
        task: str,
        batch_size: int,
        form: str,
        fractions: tuple[float, float],
        seed: int,
        image_shape: tuple[int, ...] | None = None,
    ) -> None:
        self.target, self.num_rows = target, len(table)
        column = table.pop(target)
        self.task = resolve_task(task, column)
        labels = self._set_classes(column) if self.task == "classification" else None
        rows = _split(len(table), *fractions, seed, labels)
        targets = self._standardized(column, rows[0]) if labels is None else labels
        inputs = encode_features(table, rows[0]) if image_shape is None else encode_pixels(table, rows[0])
        inputs = inputs.reshape(len(inputs), *image_shape) if form == "image" and image_shape else inputs
        train, val, test = (_tensors(inputs, targets, part) for part in rows)
        num_outputs = len(self.classes) if self.classes else 1
        super().__init__(train, val, test, batch_size=batch_size, form=form, num_outputs=num_outputs)

    @property
    def _what(self) -> str:
        return "numeric features" if self.classes else "numeric features and the target"

    def _set_classes(self, column: pd.Series) -> np.ndarray:
        """Store the classes, and return the index of each row's class, int64 (N,)."""
        values, labels = np.unique(plain_values(column), return_inverse=True)
        if len(values) < 2:
            raise _single_value(self.target, values[0], "in the file")
        self.classes: tuple[Any, ...] | None = tuple(values.tolist())
        self.target_mean, self.target_std = 0.0, 1.0
        return labels.astype(np.int64)

    def _standardized(self, column: pd.Series, train: np.ndarray) -> np.ndarray:
        """Store mean and standard deviation of the training set, and return the standardized target, float32 (N, 1)."""
        values = column.to_numpy(dtype=np.float64)
        if np.ptp(values[train]) == 0:
            raise _single_value(self.target, values[train[0]], "in the training set")
        self.classes = None
        self.target_mean, self.target_std = float(values[train].mean()), float(values[train].std())
        return standardize(values, train).astype(np.float32)[:, None]


def resolve_task(task: str, column: pd.Series) -> Task:
    """Return `task`, or for ``auto`` the task that the values of the target suggest.

    Raises:
        RequestError: The target is of an unsupported type, or is text although the task is a regression.
    """
    kind = kind_of(column, "target")
    if task == "regression" and kind == "text":
        raise RequestError(
            "A regression predicts numbers, but the target contains text or categories.",
            key="task",
            found=f"regression, of column {column.name!r} with values like {column.iloc[0]!r}",
            allowed="auto, classification",
            closest="classification",
        )
    is_few = column.dtype.kind in "iu" and column.nunique() <= MAX_CLASSES
    suggested = "classification" if kind != "number" or is_few else "regression"
    chosen = suggested if task == "auto" else task
    return "classification" if chosen == "classification" else "regression"


def _split(
    num_rows: int, val_fraction: float, test_fraction: float, seed: int, labels: np.ndarray | None
) -> list[np.ndarray]:
    """Return the row indices of the three splits; all rows of a class that is too rare to split go to training."""
    if num_rows < MIN_ROWS:
        raise RequestError(
            "The file has too few rows for three splits.",
            key="path",
            found=f"{num_rows} rows",
            allowed=f"{MIN_ROWS} rows or more",
        )
    is_rare = np.zeros(num_rows, dtype=bool) if labels is None else np.bincount(labels)[labels] < MIN_PER_CLASS
    common, rare = np.flatnonzero(~is_rare), np.flatnonzero(is_rare)
    if labels is not None and len(common) < MIN_ROWS:
        raise RequestError(
            f"Too few rows belong to classes of {MIN_PER_CLASS} rows or more.",
            key="target",
            found=f"{labels.max() + 1} classes in {num_rows} rows",
            allowed=f"{MIN_ROWS} rows or more in such classes; task=regression for a numeric target",
        )
    num_val, num_test = split_sizes(len(common), val_fraction, test_fraction, MIN_PER_SPLIT, "rows")
    strata = None if labels is None else labels[common]
    train, val, test = (common[part] for part in split_rows(len(common), num_val, num_test, seed, strata))
    return [np.concatenate([train, rare]), val, test]


def _tensors(inputs: np.ndarray, targets: np.ndarray, rows: np.ndarray) -> Split:
    return torch.from_numpy(inputs[rows]), torch.from_numpy(targets[rows])


def _single_value(target: str, value: Any, where: str) -> RequestError:
    return RequestError(
        f"The target has a single value {where}: there is nothing to predict.",
        key="target",
        found=f"{target}, always {value}",
        allowed="a column with two or more values",
    )
