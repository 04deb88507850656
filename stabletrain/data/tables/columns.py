"""Columns of a data frame as the numbers that a network reads."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from stabletrain.errors import RequestError

if TYPE_CHECKING:
    import pandas as pd

MAX_CATEGORIES = 255  # of one column: what scikit-learn's HistGradientBoosting takes; a name or an id has more
PIXEL_ROWS = 1000  # taken at a time: 25 MB of CIFAR-10 in float64


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
        if kind_of(column, "image_shape") != "number":
            raise RequestError(
                f"The column {column.name!r} holds no numbers, and so no pixels.",
                key="image_shape",
                found=f"{column.name}, with values like {column.iloc[0]!r}",
                allowed="null: these rows are no images",
                closest="null",
            )
    pixels = features.to_numpy(dtype=np.float32, copy=True)
    blocks = np.array_split(train, math.ceil(len(train) / PIXEL_ROWS))  # what they need in float64 stays small
    mean = np.sum([pixels[rows].sum(dtype=np.float64) for rows in blocks]) / (len(train) * pixels.shape[1])
    squares = np.sum([np.square(pixels[rows] - mean).sum(dtype=np.float64) for rows in blocks])
    pixels -= np.float32(mean)
    pixels /= np.float32(np.sqrt(squares / (len(train) * pixels.shape[1])) or 1.0)
    return pixels


def kind_of(column: pd.Series, key: str) -> str:
    """Return number, boolean or text; raise RequestError, about `key`, for a column of anything else."""
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


def plain_values(column: pd.Series) -> np.ndarray:
    """Return the values of a column without what pandas knows of their order."""
    return np.asarray(column.tolist() if column.dtype == "category" else column.to_numpy())


def _encode(column: pd.Series, train: np.ndarray) -> np.ndarray:
    kind = kind_of(column, "path")
    if kind == "number":
        return standardise(column.to_numpy(dtype=np.float64), train)[:, None]
    if kind == "boolean":
        return column.to_numpy(dtype=np.float32)[:, None]
    values, codes = np.unique(plain_values(column), return_inverse=True)
    if len(values) > MAX_CATEGORIES:
        raise RequestError(
            f"The column {column.name!r} has too many different texts to be one-hot.",
            key="path",
            found=f"{column.name}: {len(values)} different texts in {len(column)} rows",
            allowed=f"up to {MAX_CATEGORIES}: leave out names and identifiers",
        )
    return np.eye(len(values), dtype=np.float32)[codes]
