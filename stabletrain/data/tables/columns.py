"""Encoding the columns of a data frame as numbers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from stabletrain.errors import RequestError

if TYPE_CHECKING:
    import pandas as pd

MAX_CATEGORIES = 255  # of one column: the limit of scikit-learn's HistGradientBoosting; names and ids have more
PIXEL_ROWS = 1000  # read at a time: 25 MB of CIFAR-10 in float64


def standardize(values: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Return (x - mean) / std with the statistics of the training rows; 0 everywhere if those are all equal.

    Args:
        values: One number per row, float64 (N,).
        train: Row indices of the training set.

    Returns:
        float64 (N,), with mean 0 and mean square 1 over the training rows.
    """
    known = values[train]
    if np.ptp(known) == 0:  # not `std() == 0`, which rounding errors prevent
        return np.zeros_like(values)
    return (values - known.mean()) / known.std()


def encode_features(features: pd.DataFrame, train: np.ndarray) -> np.ndarray:
    """Return all features as numbers, in the order of the columns.

    Args:
        features: Columns of numbers, booleans, text or categories, without missing values.
        train: Row indices of the training set, from which mean and standard deviation are computed.

    Returns:
        float32 (N, num_inputs): one column for numbers or booleans, one for each distinct value of text or categories.

    Raises:
        RequestError: A column is of another type, or has too many distinct values for a one-hot encoding.
    """
    return np.concatenate([_encode(column, train).astype(np.float32) for _, column in features.items()], axis=1)


def encode_pixels(features: pd.DataFrame, train: np.ndarray) -> np.ndarray:
    """Return rows of pixels, standardized by one mean and one standard deviation over all pixels of the training rows.

    Standardized one by one, a border pixel that is dark in all images but one would get a value near a hundred.

    Args:
        features: Columns of numbers, without missing values.
        train: Row indices of the training set.

    Returns:
        float32 (N, pixels).

    Raises:
        RequestError: A column is not numeric.
    """
    for _, column in features.items():
        if kind_of(column, "image_shape") != "number":
            raise RequestError(
                f"The column {column.name!r} is not numeric, so its values cannot be pixels.",
                key="image_shape",
                found=f"{column.name}, with values like {column.iloc[0]!r}",
                allowed="null if the rows are not images",
                closest="null",
            )
    pixels = features.to_numpy(dtype=np.float32, copy=True)
    blocks = np.array_split(train, math.ceil(len(train) / PIXEL_ROWS))  # bounds the memory for float64
    mean = np.sum([pixels[rows].sum(dtype=np.float64) for rows in blocks]) / (len(train) * pixels.shape[1])
    squares = np.sum([np.square(pixels[rows] - mean).sum(dtype=np.float64) for rows in blocks])
    pixels -= np.float32(mean)
    pixels /= np.float32(np.sqrt(squares / (len(train) * pixels.shape[1])) or 1.0)
    return pixels


def kind_of(column: pd.Series, key: str) -> str:
    """Return number, boolean or text; for any other column raise RequestError about `key`."""
    kind = column.dtype.kind
    if column.dtype == "category" or (kind in "OU" and all(isinstance(value, str) for value in column)):
        return "text"  # categories too, even of integers
    if kind in "biuf":
        return "boolean" if kind == "b" else "number"
    raise RequestError(
        f"The column {column.name!r} contains neither numbers, booleans nor text.",
        key=key,
        found=f"{column.name} of type {column.dtype}, with values like {column.iloc[0]!r}",
        allowed="numbers, booleans, text or categories",
    )


def plain_values(column: pd.Series) -> np.ndarray:
    """Return the values of a column without the order of its categories."""
    return np.asarray(column.tolist() if column.dtype == "category" else column.to_numpy())


def _encode(column: pd.Series, train: np.ndarray) -> np.ndarray:
    kind = kind_of(column, "path")
    if kind == "number":
        return standardize(column.to_numpy(dtype=np.float64), train)[:, None]
    if kind == "boolean":
        return column.to_numpy(dtype=np.float32)[:, None]
    values, codes = np.unique(plain_values(column), return_inverse=True)
    if len(values) > MAX_CATEGORIES:
        raise RequestError(
            f"The column {column.name!r} has too many distinct texts for a one-hot encoding.",
            key="path",
            found=f"{column.name}: {len(values)} distinct texts in {len(column)} rows",
            allowed=f"up to {MAX_CATEGORIES}: leave out names and identifiers",
        )
    return np.eye(len(values), dtype=np.float32)[codes]
