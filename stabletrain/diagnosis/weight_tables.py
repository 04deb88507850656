"""Statistics of the layers that can be compared with each other: weights, without biases and gains."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from stabletrain.diagnosis.observations import Observations, Table
from stabletrain.vocabulary.signals import GRADIENT, UPDATE, WEIGHT


def weights(observations: Observations, signal: str) -> Table | None:
    """Return the RMS of all weights by step, in forward order; None if there are none.

    Biases and gains have one axis. Their gradients are sums over positions, which cannot be compared over depth. Where
    the number of axes is unknown, the parameter's name decides.
    """
    table = observations.rms.get(signal)
    if table is None:
        return None
    kept = tuple(layer for layer in table.layers if _is_weight(layer, observations))
    return table.of(kept) if kept else None


def _is_weight(layer: str, observations: Observations) -> bool:
    num_dims = observations.about.num_dims.get(layer)
    return num_dims > 1 if num_dims is not None else "bias" not in layer.rpartition(".")[2]


def layers_with_parameters(observations: Observations) -> set[str]:
    """Return the paths of modules that have parameters of their own; empty if no parameter is known."""
    tables = [observations.rms[signal].layers for signal in (GRADIENT, WEIGHT) if signal in observations.rms]
    names = {layer for layers in (*tables, tuple(observations.about.num_dims)) for layer in layers}
    return {layer.partition(".")[2].rpartition(".")[0] for layer in names}


def update_ratios(observations: Observations) -> Table | None:
    """Return ‖ΔW‖/‖W‖ of all weights by step; None if not measured.

    Weights initialized to zero have no scale to compare a step with: they are NaN.
    """
    update, weight = weights(observations, UPDATE), weights(observations, WEIGHT)
    if update is None or weight is None:
        return None
    layers = tuple(layer for layer in update.layers if layer in set(weight.layers))
    steps, rows, columns = np.intersect1d(update.steps, weight.steps, assume_unique=True, return_indices=True)
    if not layers or not len(steps):
        return None
    below = weight.of(layers).values[columns]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        ratios = np.where((below > 0) & (below[0] > 0), update.of(layers).values[rows] / below, np.nan)
    return Table(steps, layers, ratios)


def row_medians(table: Table) -> np.ndarray:
    """Return the median over the layers for each step, NaN where no layer was measured."""
    return over_present(table.values, lambda rows: np.median(rows, axis=1), least=1)


def over_present(values: np.ndarray, function: Callable[[np.ndarray], np.ndarray], least: int) -> np.ndarray:
    """Reduce each row over its entries that are not NaN; NaN for rows with fewer than `least` of them.

    Args:
        values: (T, L). Rows without NaN, the usual case, are reduced together.
        function: Maps (n, l) to (n,).
        least: Number of entries that a row must have.
    """
    found = np.full(len(values), np.nan)
    present = ~np.isnan(values)
    nums = present.sum(axis=1)
    is_whole = nums == values.shape[1]
    if values.shape[1] >= least:
        found[is_whole] = function(values[is_whole])
    for i in np.flatnonzero(~is_whole & (nums >= least)):
        found[i] = function(values[i : i + 1, present[i]])[0]
    return found
