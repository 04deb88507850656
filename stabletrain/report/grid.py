"""Grids: a statistic by layer and step, or a norm by time step and training step, at the resolution of a picture."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from stabletrain.record.reader import Record, Series
from stabletrain.vocabulary import metric_names as names
from stabletrain.vocabulary.signals import GRADIENT

MAX_COLUMNS = 400
MAX_TIME_ROWS = 200


@dataclass(frozen=True)
class Grid:
    """The data of a heatmap.

    Attributes:
        rows: Layers in forward order, or time steps.
        edges: (columns + 1,) steps at which the columns begin and end.
        log10: (rows, columns) float; -inf where the value is zero, NaN where no finite value was recorded.
        nonfinite: (rows, columns) bool; whether Inf or NaN was recorded.
        merged: Whether a column may combine several measured steps.
    """

    rows: list[str]
    edges: np.ndarray
    log10: np.ndarray
    nonfinite: np.ndarray
    merged: bool = False


def signal_grid(record: Record, signal: str = GRADIENT, *, max_columns: int = MAX_COLUMNS) -> Grid:
    """Return the rms of a signal by layer and step.

    If there are more steps than columns, each column is the mean of log10 over neighboring steps. It is -inf if the
    rms is exactly zero at one of them, so that zeros remain visible.

    Args:
        record: The record.
        signal: One of `vocabulary.signals.SIGNALS`.
        max_columns: Largest number of columns.
    """
    rms, bad = (record.of_layers(names.of_signal(signal, s)) for s in (names.RMS, names.NONFINITE))
    return _lay_out(rms, bad, sorted({*rms, *bad, *record.histograms_of(signal)}), max_columns)


def ratio_grid(record: Record, *, max_columns: int = MAX_COLUMNS) -> Grid:
    """Return ‖ΔW‖/‖W‖ by layer and step."""
    ratios = record.of_layers(names.UPDATE_RATIO)
    return _lay_out(ratios, {}, list(ratios), max_columns)


def time_grids(
    record: Record, *, max_rows: int = MAX_TIME_ROWS, max_columns: int = MAX_COLUMNS // 2
) -> dict[str, Grid]:
    """Return ‖∂L/∂h_t‖ by time step t and training step, for each recurrent layer.

    Sequences of different lengths are aligned at their first step. A row that combines several time steps is the mean
    of log10.
    """
    found = {names.layer_of(name, names.TIME_NORM): by_step for name, by_step in record.vectors.items()}
    grids = {layer: _time_grid(by_step, max_rows, max_columns) for layer, by_step in found.items() if layer and by_step}
    return {layer: grids[layer] for layer in sorted(grids) if grids[layer].log10.size}


def clipped_share(record: Record, edges: np.ndarray) -> np.ndarray | None:
    """Return the fraction of clipped steps in each column.

    The record holds the fraction f(s) of all steps up to s. Between two recorded steps a < b, the fraction is

        (f(b)·(b + 1) - f(a)·(a + 1)) / (b - a)

    Args:
        record: The record.
        edges: (columns + 1,) steps at which the columns begin and end.

    Returns:
        (columns,) fractions, NaN where none was recorded; None if no step was clipped.
    """
    series = record.scalars.get(names.CLIP_FRACTION)
    if series is None or not series.steps or not any(value > 0 for value in series.values) or len(edges) < 2:
        return None
    steps, counts = np.array(series.steps), np.array(series.values) * (np.array(series.steps) + 1)
    before = np.concatenate([[-1], steps[:-1]])
    shares = np.clip(np.diff(counts, prepend=0.0) / (steps - before), 0.0, 1.0)
    # A column gets the recorded interval that contains its middle.
    middles = np.minimum((edges[:-1] + edges[1:] - 1) / 2, edges[1:] - 1)
    place = np.searchsorted(steps, middles, side="left")
    return np.where(place < len(steps), shares[np.minimum(place, len(steps) - 1)], np.nan)


def _lay_out(
    values: Mapping[str, Series],
    bad: Mapping[str, Series],
    rows: Sequence[str],
    max_columns: int,
) -> Grid:
    steps = all_steps([*values.values(), *bad.values()])
    if not steps.size:
        return Grid(list(rows), np.zeros(1), np.zeros((len(rows), 0)), np.zeros((len(rows), 0), dtype=bool))
    numbers, counts = (_align(source, rows, steps) for source in (values, bad))
    return _thin(list(rows), steps, numbers, (counts > 0) | np.isinf(numbers), max_columns)


def all_steps(series: Iterable[Series]) -> np.ndarray:
    """Return the steps at which any of the series was recorded, increasing."""
    different = {id(s.steps): s.steps for s in series}  # the layers of a long record share one array
    every = [np.asarray(steps, dtype=np.int64) for steps in different.values()]
    return np.unique(np.concatenate(every)) if every else np.zeros(0, dtype=np.int64)


def _align(source: Mapping[str, Series], rows: Sequence[str], steps: np.ndarray) -> np.ndarray:
    """Return (rows, steps) values; NaN where a row has none."""
    values = np.full((len(rows), len(steps)), np.nan)
    for row, layer in enumerate(rows):
        if layer in source:
            values[row, np.searchsorted(steps, source[layer].steps)] = source[layer].values
    return values


def _thin(rows: list[str], steps: np.ndarray, values: np.ndarray, bad: np.ndarray, max_columns: int) -> Grid:
    with np.errstate(divide="ignore"):
        logs = np.log10(np.where(np.isfinite(values), values, np.nan))
    firsts = _column_starts(steps, max_columns)
    merged = len(firsts) < len(steps)
    spacing = float(np.median(np.diff(steps))) if len(steps) > 1 and not merged else 1.0  # width of the last column
    edges = np.append(steps[firsts].astype(float), steps[-1] + spacing)
    seen = np.logical_or.reduceat(bad, firsts, axis=1)
    return Grid(rows, edges, mean_known(logs, firsts, axis=1), seen, merged)


def mean_known(values: np.ndarray, firsts: np.ndarray, axis: int) -> np.ndarray:
    """Return the mean of each group that begins at one of `firsts`, ignoring NaN."""
    known = ~np.isnan(values)
    sums = np.add.reduceat(np.where(known, values, 0.0), firsts, axis=axis)
    num_known = np.add.reduceat(known, firsts, axis=axis, dtype=np.int64)
    return np.where(num_known > 0, sums / np.maximum(num_known, 1), np.nan)


def _column_starts(steps: np.ndarray, max_columns: int) -> np.ndarray:
    """Return the index of the first step of each column: at most `max_columns` equal ranges without the empty ones."""
    if len(steps) <= max_columns:
        return np.arange(len(steps))
    columns = (steps - steps[0]) * max_columns // (steps[-1] - steps[0] + 1)
    return np.flatnonzero(np.diff(columns, prepend=-1))


def _time_grid(by_step: Mapping[int, np.ndarray], max_rows: int, max_columns: int) -> Grid:
    steps = np.array(sorted(by_step), dtype=np.int64)
    length = max(len(by_step[s]) for s in steps)
    values = np.full((length, len(steps)), np.nan)
    bad = np.zeros(values.shape, dtype=bool)
    for column, step in enumerate(steps):
        norms = np.asarray(by_step[step], dtype=float)
        values[: len(norms), column] = norms
        bad[: len(norms), column] = ~np.isfinite(norms)
    grid = _thin([], steps, values, bad, max_columns)
    firsts = np.unique(np.arange(min(length, max_rows)) * length // max(min(length, max_rows), 1))
    if not firsts.size:
        return grid
    lasts = np.append(firsts[1:], length) - 1
    rows = [f"t = {a}" if a == b else f"t = {a}–{b}" for a, b in zip(firsts, lasts, strict=True)]
    merged = np.logical_or.reduceat(grid.nonfinite, firsts, axis=0)
    return Grid(rows, grid.edges, mean_known(grid.log10, firsts, axis=0), merged, grid.merged)
