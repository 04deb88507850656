"""Ridgeline plot: the distribution of log10|g| in each layer at one step."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from stabletrain.record.reader import Record
from stabletrain.report.pictures.drawing import (
    ALARM,
    FAINT,
    FONT,
    GRID,
    INK,
    SEQUENTIAL,
    label_rows,
    new_figure,
    power_of_ten,
    text_picture,
    to_png,
    whole_decades,
    write_text,
)
from stabletrain.signal.histogram import LOG10_2, NONFINITE_BIN, NUM_BINS, ZERO_BIN, Histogram, log10_edge

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZE_PX = 900
NUM_COLORS = 256
MAX_LABELS = 24
CROWD = 40  # with more layers, lines are thin and medians have no marker
MIN_DECADES = 8  # on a narrower axis, a healthy spread would look dramatic
LOW_SHARE = 0.02  # fraction of the smallest gradients of a layer that the axis may cut off
NOTABLE_ZEROS = 0.01
ALL_ZERO = "all zero"
CENTRES = np.array([log10_edge(k) + LOG10_2 / 2 for k in range(NUM_BINS)])


def density(histogram: Histogram) -> tuple[np.ndarray, np.ndarray]:
    """Return the density of log10|g| over the finite nonzero elements, as a polygon through the bin centers.

    Args:
        histogram: Counts of one layer.

    Returns:
        Points (n,) in log10|g| and the density (n,) at these points. The polygon begins and ends at 0 and has area 1.
        Both arrays are empty if no element is finite and nonzero.
    """
    counts = histogram.counts[:NONFINITE_BIN].astype(float)
    counts[ZERO_BIN] = 0
    filled = np.flatnonzero(counts)
    if filled.size == 0:
        return np.empty(0), np.empty(0)
    low, high = filled[0], filled[-1]
    heights = np.concatenate([[0.0], counts[low : high + 1] / counts.sum() / LOG10_2, [0.0]])
    return CENTRES[low - 1 : high + 2], heights


def log10_median(histogram: Histogram) -> float | None:
    """Return log10 of the median |g| over the finite nonzero elements, or None if there are none."""
    counts = histogram.counts.copy()
    counts[ZERO_BIN] = 0
    median = Histogram(counts).quantile(0.5)
    return None if median is None else math.log10(median)


def ridge_limits(source: Record | Mapping[str, Histogram]) -> tuple[float, float]:
    """Return the range of log10|g| that contains all ridges of a record, or of one step, as even integers.

    Pass it to `draw_ridges` as `limits` so that the pictures of several steps share one axis.
    """
    if isinstance(source, Record):
        groups: Iterable[Iterable[Histogram]] = (by_step.values() for by_step in source.histograms.values())
    else:
        groups = [source.values()]
    return limits_of_histograms(groups)


def limits_of_histograms(groups: Iterable[Iterable[Histogram]]) -> tuple[float, float]:
    """Return the range of log10|x| that contains all histograms, as even integers."""
    lows, highs = [], []
    for group in groups:
        counts = np.array([h.counts[1:NONFINITE_BIN] for h in group], dtype=np.int64)
        if not counts.any():
            continue
        counts = counts[counts.any(axis=1)]
        cumulative = np.cumsum(counts, axis=1)
        total = cumulative[:, -1:]
        lows.append(int((cumulative <= LOW_SHARE * total).sum(axis=1).min()) + 1)
        highs.append(int((cumulative < total).sum(axis=1).max()) + 2)
    if not lows:
        return -8.0, 0.0
    low = 2 * math.floor(log10_edge(min(lows)) / 2)
    high = 2 * math.ceil(log10_edge(max(highs)) / 2)
    return float(min(low, high - MIN_DECADES)), float(high)


def draw_ridges(
    histograms: Mapping[str, Histogram],
    *,
    step: int,
    title: str = "",
    limits: tuple[float, float] | None = None,
) -> bytes:
    """Draw one ridge per layer, from the input (top) to the output (bottom), over a common axis of log10|g|.

    In a healthy network the ridges are below one another. If gradients vanish, they shift to the left towards the
    input; if gradients explode, they are far to the right.

    Args:
        histograms: Histogram of each layer at one step.
        step: The step, for the heading.
        title: Text before the step in the heading.
        limits: Range of the axis in log10|g|; chosen from these histograms if None.

    Returns:
        A PNG file.
    """
    heading = f"{title} · step {step:,}" if title else f"Gradients per layer · step {step:,}"
    layers = sorted(histograms)
    if not layers:
        return text_picture(SIZE_PX, SIZE_PX, f"step {step:,}: no histogram recorded")
    figure = new_figure(SIZE_PX, SIZE_PX)
    axes = figure.add_axes((0.28, 0.1, 0.55, 0.81))
    low, high = limits or ridge_limits(histograms)
    fontsize = 13 if len(layers) <= 16 else 11
    _prepare_axes(axes, len(layers), low, high)
    medians = [log10_median(histograms[layer]) for layer in layers]
    _draw_polygons(axes, [histograms[layer] for layer in layers], medians, low, high)
    _draw_medians(axes, medians, low, high)
    label_rows(axes, layers, MAX_LABELS, fontsize)
    _write_notes(axes, [histograms[layer] for layer in layers], fontsize)
    write_text(axes, 0.02, 0.965, heading, transform=figure.transFigure, fontsize=18, weight="bold", va="center")
    return to_png(figure, NUM_COLORS)


def _prepare_axes(axes: Axes, num_layers: int, low: float, high: float) -> None:
    axes.set_xlim(low, high)
    axes.set_ylim(num_layers - (0.5 if num_layers > 3 else 0.8), -0.05 - _height(num_layers))
    axes.set_yticks([])
    ticks = whole_decades(low, high)
    axes.set_xticks(ticks, [power_of_ten(k) for k in ticks], fontsize=14, family=FONT, color=INK)
    axes.grid(axis="x", color=GRID, linewidth=1)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    for side in ("top", "left", "right"):
        axes.spines[side].set_visible(False)
    axes.set_xlabel("magnitude of the gradient |g|, per element", fontsize=15, family=FONT, color=INK)


def _height(num_layers: int) -> float:
    """Return the height of a ridge in rows; neighbors overlap if there are many."""
    return 1.7 if num_layers > 3 else 0.9


def _draw_polygons(
    axes: Axes, histograms: Sequence[Histogram], medians: Sequence[float | None], low: float, high: float
) -> None:
    from matplotlib import colormaps
    from matplotlib.collections import PolyCollection

    height = _height(len(histograms))
    polygons, shades = [], []
    for row, (histogram, median) in enumerate(zip(histograms, medians, strict=True)):
        x, heights = density(histogram)
        if median is None:
            continue
        polygons.append(np.column_stack([x, row - height * heights / heights.max()]))
        shades.append((median - low) / (high - low))
    if not polygons:
        sign, text = (
            ("⚠ ", "no finite gradient") if any(h.num_nonfinite for h in histograms) else ("", "all gradients are zero")
        )
        style = {"transform": axes.transAxes, "fontsize": 20, "ha": "center", "va": "center", "zorder": 4}
        write_text(axes, 0.5, 0.5, f"{sign}{text}", **style)
    crowded = len(histograms) > CROWD
    if not crowded:
        axes.hlines(range(len(histograms)), low, high, colors=GRID, linewidth=0.8, zorder=1)
    for row, histogram in enumerate(histograms):
        if histogram.num_nonfinite:
            axes.axhspan(row - 0.5, row + 0.5, color=ALARM, alpha=0.15, linewidth=0, zorder=0)
    colors = colormaps[SEQUENTIAL](np.clip(shades, 0, 1))
    style = {"edgecolors": "white", "linewidths": 0.4 if crowded else 1.2}
    axes.add_collection(PolyCollection(polygons, facecolors=colors, zorder=2, **style))


def _draw_medians(axes: Axes, medians: Sequence[float | None], low: float, high: float) -> None:
    inside = [(m, row) for row, m in enumerate(medians) if m is not None and low <= m <= high]
    marker = {"marker": "o", "markersize": 7} if len(medians) <= CROWD else {}
    if inside:
        x, rows = zip(*inside, strict=True)
        axes.plot(x, rows, color=INK, linewidth=1.6, markerfacecolor="white", zorder=3, **marker)
    for row, median in enumerate(medians):
        if median is not None and not low <= median <= high:
            edge, sign = (low, "◀") if median < low else (high, "▶")
            write_text(axes, edge, row, sign, fontsize=13, ha="center", va="center", zorder=4)


def _write_notes(axes: Axes, histograms: Sequence[Histogram], fontsize: float) -> None:
    """Write zeros, Inf and NaN to the right of each row; where rows share a note, the worst of them."""
    group = math.ceil(len(histograms) / MAX_LABELS)
    side = axes.get_yaxis_transform()
    for first in range(0, len(histograms), group):
        members = histograms[first : first + group]
        text, alarming = note_of(max(members, key=lambda h: (h.num_nonfinite, h.num_zero / max(h.size, 1))))
        style = {"color": ALARM, "weight": "bold"} if alarming else {"color": INK if text == ALL_ZERO else FAINT}
        row = first + (len(members) - 1) / 2
        if text:
            write_text(axes, 1.02, row, text, transform=side, fontsize=fontsize, va="center", **style)


def note_of(histogram: Histogram) -> tuple[str, bool]:
    """Return a note on zeros, Inf and NaN (empty if there is nothing to report), and whether it is alarming."""
    if histogram.num_nonfinite:
        whole = histogram.num_nonfinite == histogram.size
        return f"⚠ {'all' if whole else brief_count(histogram.num_nonfinite)} Inf/NaN", True
    share = histogram.num_zero / histogram.size if histogram.size else 0.0
    if share == 1:
        return ALL_ZERO, False
    return (f"{min(share, 0.99):.0%} zero", False) if share > NOTABLE_ZEROS else ("", False)


def brief_count(count: int) -> str:
    """Format `count` in at most four characters if it is below 10⁹: 950, 12k, 3M."""
    for size, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count // size}{letter}"
    return str(count)
