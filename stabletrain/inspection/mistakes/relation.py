"""Whether targets have anything to do with inputs, asked of the numbers alone.

Two statistics are compared with those of shuffled targets, which have nothing to do with the inputs: how much alike the
targets of the nearest neighbors are, and the largest correlation of an input with a target. A relation that neither
shows may still exist, so that its absence proves nothing: it is a possibility.
"""

from __future__ import annotations

import numpy as np

NEIGHBORS = 3
SHUFFLES = 24  # of the targets: the null distribution's mean and spread
RELATED = 3.5  # standard deviations; the largest of many correlations is often beyond 2.5 by chance
MIN_ROWS = 100
MAX_ROWS = 512
MAX_COLUMNS = 128  # of the inputs, spread over all of them
MAX_TARGETS = 16
COPY = 1e-9  # squared distance per column below which rows are copies
DISCRETE = 0.5  # share of the rows that have a copy


def are_related(inputs: np.ndarray, targets: np.ndarray) -> bool | None:
    """Return whether targets depend on inputs; None if that cannot be known, as for constant ones.

    Args:
        inputs: (n, D) numbers.
        targets: (n, K) numbers; classes as one-hot rows.
    """
    x, y = standardized(thinned(inputs, MAX_COLUMNS)), standardized(thinned(targets, MAX_TARGETS))
    if len(x) < MIN_ROWS or not x.size or not y.size:
        return None
    nearest = _nearest(x)
    generator = np.random.default_rng(0)
    seen = _statistics(x, y, nearest)
    null = np.array([_statistics(x, y[generator.permutation(len(y))], nearest) for _ in range(SHUFFLES)])
    return bool(((seen - null.mean(0)) / np.maximum(null.std(0), 1e-12) > RELATED).any())


def thinned(values: np.ndarray, most: int) -> np.ndarray:
    """Return at most so many columns, evenly spread."""
    return values[:, :: max(1, -(-values.shape[1] // most))]


def standardized(values: np.ndarray) -> np.ndarray:
    """Return the columns that vary, with mean 0 and standard deviation 1; outliers are brought in to ±5."""
    spread = values.std(0)
    kept = spread > 1e-6 * np.maximum(np.abs(values).max(0), 1e-30)
    return np.clip((values[:, kept] - values[:, kept].mean(0)) / spread[kept], -5, 5)


def _nearest(x: np.ndarray) -> np.ndarray:
    """Return the rows of the nearest neighbors of each row (n, NEIGHBORS).

    An example that is drawn twice has the same target both times, also a wrong one: copies are no neighbors, except
    where most rows have some, as for inputs of few values.
    """
    squares = (x * x).sum(1)
    distances = squares[:, None] + squares[None] - 2 * x @ x.T
    np.fill_diagonal(distances, np.inf)
    copies = distances < COPY * x.shape[1]
    if copies.any(1).mean() < DISCRETE:
        distances[copies] = np.inf
    return np.argpartition(distances, NEIGHBORS, axis=1)[:, :NEIGHBORS]


def _statistics(x: np.ndarray, y: np.ndarray, nearest: np.ndarray) -> np.ndarray:
    alike = float((y * y[nearest].mean(1)).mean())
    correlation = float(np.abs(x.T @ y).max()) / len(x)
    return np.array([alike, correlation])
