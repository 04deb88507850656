"""A table of one's own: a CSV or Parquet file in which one column is predicted from the others."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, final

import numpy as np
import torch

from stabletrain.data.base import MAX_SEED, Data, Split, Task, require_count, resolve_form
from stabletrain.data.splits import split_rows, split_sizes
from stabletrain.data.table_file import read_table, require_complete, require_target
from stabletrain.errors import RequestError, require_choice

if TYPE_CHECKING:
    import pandas as pd

MAX_CLASSES = 20  # distinct integers that are still read as classes; ratings and grades have fewer, counts more
MAX_CATEGORIES = 255  # of one column: what scikit-learn's HistGradientBoosting takes; a name or an id has more
MIN_PER_SPLIT = 2  # a deviation needs two
MIN_ROWS = 3 * MIN_PER_SPLIT
MIN_PER_CLASS = 3  # one for each split


STANDARDISED = "standardised by mean and deviation of the training set"


class Tabular(Data):
    """A data frame without gaps, of which one column is predicted from the others; see `Table`.

    Args:
        table: Columns of numbers, booleans, text or categories; the target is taken out of it.
        target: Name of the column to predict.
        task: ``classification``, ``regression`` or ``auto``.
        batch_size: Global batch size.
        form: What the shape of one input means.
        fractions: Shares of the rows that validate and test.
        seed: Which split.
        image_shape: Channels, height and width where a row is an image; None where it is not.
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
        targets = self._standardised(column, rows[0]) if labels is None else labels
        inputs = encode_features(table, rows[0]) if image_shape is None else encode_pixels(table, rows[0])
        inputs = inputs.reshape(len(inputs), *image_shape) if form == "image" and image_shape else inputs
        train, val, test = (_tensors(inputs, targets, part) for part in rows)
        num_outputs = len(self.classes) if self.classes else 1
        super().__init__(train, val, test, batch_size=batch_size, form=form, num_outputs=num_outputs)

    @property
    def _what(self) -> str:
        return "numeric features" if self.classes else "numeric features and the target"

    def _set_classes(self, column: pd.Series) -> np.ndarray:
        """Keep the classes, and return the number of each row's class, int64 (N,)."""
        values, labels = np.unique(_plain(column), return_inverse=True)
        if len(values) < 2:
            raise _single_value(self.target, values[0], "in the file")
        self.classes: tuple[Any, ...] | None = tuple(values.tolist())
        self.target_mean, self.target_std = 0.0, 1.0
        return labels.astype(np.int64)

    def _standardised(self, column: pd.Series, train: np.ndarray) -> np.ndarray:
        """Keep mean and deviation of the training set, and return the standardised target, float32 (N, 1)."""
        values = column.to_numpy(dtype=np.float64)
        if np.ptp(values[train]) == 0:
            raise _single_value(self.target, values[train[0]], "in the training set")
        self.classes = None
        self.target_mean, self.target_std = float(values[train].mean()), float(values[train].std())
        return standardise(values, train).astype(np.float32)[:, None]


@final
class Table(Tabular):
    r"""The columns of a CSV or Parquet file: one is the target, all others are features.

    Numbers are standardised by the mean and the deviation of the training split alone, since initialisations are
    derived for inputs of mean 0 and mean square 1 (LeCun et al. 1998, section 4.3); a column that is constant there
    becomes 0. Booleans become 0 and 1, text and categories one-hot, sorted, over the values of the whole file.

    The target of a regression is standardised in the same way. A network starts with outputs near 0, so that a
    target in dollars would make the first gradients as large as its mean, whatever the network; standardised, to
    predict the mean makes a mean squared error of 1, and 1 - MSE is about R². y = y' · `target_std` + `target_mean`
    leads back.

    Attributes:
        target: The column that is predicted.
        classes: Values of the target in sorted order, class 0 first; None for a regression.
        target_mean: What was subtracted from the target; 0 for a classification.
        target_std: What the target was divided by; 1 for a classification.

    Args:
        path: A file that ends in .csv (comma-separated, UTF-8, names in the first line) or .parquet.
        target: The column to predict.
        task: ``classification``, ``regression``, or ``auto``: a classification if the target is text, boolean, or
            integers with at most 20 distinct values.
        batch_size: Global batch size, from 1 to the size of the training set. 32 is the usual small batch
            (Masters and Luschi 2018).
        form: ``vector``, the only one that a table has; ``auto`` is ``vector``.
        val_fraction: Share of the rows that validates, above 0.
        test_fraction: Share of the rows that tests, above 0; both shares together below 1.
        seed: Which split, from 0 to 2³² - 1. Classes keep their shares in all three splits where they have rows
            enough; the rows of a class with fewer than three all train.

    Raises:
        RequestError: The file or the target is not there or not usable, or an argument is out of its range.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     lines = ["x,kind,y"] + [f"{i},{'ab'[i % 2]},{2 * i}.5" for i in range(100)]
        ...     _ = Path(folder, "line.csv").write_text("\n".join(lines))
        ...     table = Table(f"{folder}/line.csv", target="y")
        >>> table.task, table.num_inputs
        ('regression', 3)
    """

    name: ClassVar[str] = "table"
    forms: ClassVar[tuple[str, ...]] = ("vector",)

    def __init__(
        self,
        path: str | None = None,
        target: str | int | None = None,
        task: str = "auto",
        batch_size: int = 32,
        form: str = "auto",
        val_fraction: float = 0.15,
        test_fraction: float = 0.15,
        seed: int = 0,
    ) -> None:
        require_count("batch_size", batch_size)
        form = _resolve_form(form)
        seed = require_count("seed", seed, 0, MAX_SEED)
        require_choice("task", task, ["auto", "classification", "regression"])
        table = read_table(path)
        target = require_target(target, list(table.columns))
        require_complete(table, target)
        self._file = Path(str(path)).name
        super().__init__(
            table,
            target,
            task=task,
            batch_size=batch_size,
            form=form,
            fractions=(val_fraction, test_fraction),
            seed=seed,
        )

    @property
    def source(self) -> str:
        """One sentence that says where the numbers come from."""
        return f"Column {self.target!r} of {self._file} ({self.num_rows} rows), {self._what} {STANDARDISED}."


def standardise(values: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Return (x - mean) / deviation with the numbers of the training rows; 0 everywhere if those are all equal.

    Args:
        values: One number a row, float64 (N,).
        train: Row numbers of the training set.

    Returns:
        float64 (N,), with mean 0 and mean square 1 over the training rows.
    """
    known = values[train]
    if np.ptp(known) == 0:  # not the deviation, which rounding keeps above 0
        return np.zeros_like(values)
    return (values - known.mean()) / known.std()


def encode_features(features: pd.DataFrame, train: np.ndarray) -> np.ndarray:
    """Return all features as numbers, in the order of the columns.

    Args:
        features: Columns of numbers, booleans, text or categories, without gaps.
        train: Row numbers of the training set, which mean and deviation are taken from.

    Returns:
        float32 (N, num_inputs): one column for a number or boolean, one for each value of a text or category.

    Raises:
        RequestError: A column is of another type, or has too many values to be one-hot.
    """
    return np.concatenate([_encode(column, train).astype(np.float32) for _, column in features.items()], axis=1)


def encode_pixels(features: pd.DataFrame, train: np.ndarray) -> np.ndarray:
    """Return rows of pixels, standardised by one mean and one deviation of all pixels of the training rows.

    Pixel by pixel, one at the border that is dark but once would make a number of a hundred deviations.

    Args:
        features: Columns of numbers, without gaps.
        train: Row numbers of the training set.

    Returns:
        float32 (N, pixels).

    Raises:
        RequestError: A column does not hold numbers.
    """
    for _, column in features.items():
        if _kind(column, "image_shape") != "number":
            raise RequestError(
                f"The column {column.name!r} holds no numbers, and so no pixels.",
                key="image_shape",
                found=f"{column.name}, with values like {column.iloc[0]!r}",
                allowed="null: these rows are no images",
                closest="null",
            )
    pixels = features.to_numpy(dtype=np.float32)
    mean, std = pixels[train].mean(dtype=np.float64), pixels[train].std(dtype=np.float64)
    return (pixels - np.float32(mean)) / np.float32(std or 1.0)


def resolve_task(task: str, column: pd.Series) -> Task:
    """Return the task to train: `task` itself, or the one that the target's values suggest for ``auto``.

    Raises:
        RequestError: The target is of a type that cannot be predicted, or is text and the task a regression.
    """
    kind = _kind(column, "target")
    if task == "regression" and kind == "text":
        raise RequestError(
            "A regression predicts numbers, and the target holds text or categories.",
            key="task",
            found=f"regression, of column {column.name!r} with values like {column.iloc[0]!r}",
            allowed="auto, classification",
            closest="classification",
        )
    is_few = column.dtype.kind in "iu" and column.nunique() <= MAX_CLASSES
    suggested = "classification" if kind != "number" or is_few else "regression"
    chosen = suggested if task == "auto" else task
    return "classification" if chosen == "classification" else "regression"


def _resolve_form(form: str) -> str:
    if form in ("sequence", "image"):  # what a family that reads those asks for
        raise RequestError(
            f"A table has no order among its columns: its rows are vectors, and make no {form}.",
            key="form",
            found=form,
            allowed="auto, vector",
            command="model=mlp",
        )
    return resolve_form(form, ["vector"])


def _kind(column: pd.Series, key: str) -> str:
    """Return number, boolean or text."""
    kind = column.dtype.kind
    if column.dtype == "category" or (kind in "OU" and all(isinstance(value, str) for value in column)):
        return "text"  # also categories that are integers
    if kind in "biuf":
        return "boolean" if kind == "b" else "number"
    raise RequestError(
        f"The column {column.name!r} holds neither numbers, booleans nor text.",
        key=key,
        found=f"{column.name} of type {column.dtype}, with values like {column.iloc[0]!r}",
        allowed="numbers, booleans, text or categories",
    )


def _plain(column: pd.Series) -> np.ndarray:
    """Return the values of a column without what pandas knows of their order."""
    return np.asarray(column.tolist() if column.dtype == "category" else column.to_numpy())


def _encode(column: pd.Series, train: np.ndarray) -> np.ndarray:
    kind = _kind(column, "path")
    if kind == "number":
        return standardise(column.to_numpy(dtype=np.float64), train)[:, None]
    if kind == "boolean":
        return column.to_numpy(dtype=np.float32)[:, None]
    values, codes = np.unique(_plain(column), return_inverse=True)
    if len(values) > MAX_CATEGORIES:
        raise RequestError(
            f"The column {column.name!r} has too many different texts to be one-hot.",
            key="path",
            found=f"{column.name}: {len(values)} different texts in {len(column)} rows",
            allowed=f"up to {MAX_CATEGORIES}: leave out names and identifiers",
        )
    return np.eye(len(values), dtype=np.float32)[codes]


def _split(
    num_rows: int, val_fraction: float, test_fraction: float, seed: int, labels: np.ndarray | None
) -> list[np.ndarray]:
    """Return the row numbers of the three splits; the rows of a class that is too rare to be split all train."""
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
            f"Too few rows are of a class that has {MIN_PER_CLASS} rows or more.",
            key="target",
            found=f"{labels.max() + 1} classes in {num_rows} rows",
            allowed=f"{MIN_ROWS} rows or more in such classes; task=regression for a target that is a number",
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
