"""Heatmap: the gradient of each layer over the whole run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from stabletrain.record import names
from stabletrain.record.reader import Record
from stabletrain.report.drawing import (
    ALARM,
    FONT,
    INK,
    SEQUENTIAL,
    label_rows,
    new_figure,
    picture_of_words,
    power_of_ten,
    to_png,
    whole_decades,
    write_text,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZE_PX = 900
MAX_COLUMNS = 400
MAX_LABELS = 24
MAX_MARKS = 12
MIN_DECADES = 6  # a narrower scale would make a healthy spread look dramatic
ZERO_COLOR = "#000000"
MISSING_COLOR = "#e4e7eb"


@dataclass(frozen=True)
class HeatmapData:
    """What the heatmap shows.

    Attributes:
        layers: In forward order.
        edges: (columns + 1,) steps between which each column stands.
        log10_rms: (layers, columns) float; -inf where the gradient is zero, NaN where nothing finite was recorded.
        nonfinite: (layers, columns) bool; whether Inf or NaN was seen.
    """

    layers: list[str]
    edges: np.ndarray
    log10_rms: np.ndarray
    nonfinite: np.ndarray


def heatmap_data(record: Record, until_step: int | None = None, max_columns: int = MAX_COLUMNS) -> HeatmapData:
    """Lay out the gradient's rms by layer and step; if there are many steps, neighbours share a column.

    A column holds the mean of log10. A mean of log10 in which one step is exactly zero is -inf: a zero is not hidden.
    """
    sources = [record.of_layers(statistic) for statistic in (names.GRADIENT_RMS, names.GRADIENT_NONFINITE)]
    layers = sorted(set(sources[0]) | set(sources[1]))
    every = {step for source in sources for series in source.values() for step in series.steps}
    steps = np.array(sorted(s for s in every if until_step is None or s <= until_step), dtype=np.int64)
    if not steps.size:
        return HeatmapData(layers, np.zeros(1), np.zeros((len(layers), 0)), np.zeros((len(layers), 0), dtype=bool))
    rms, counts = (_align(source, layers, steps) for source in sources)
    with np.errstate(divide="ignore"):
        log10_rms = np.log10(np.where(np.isfinite(rms), rms, np.nan))
    firsts = _column_starts(steps, max_columns)
    spacing = float(np.median(np.diff(steps[firsts]))) if len(firsts) > 1 else 1.0
    edges = np.append(steps[firsts].astype(float), max(float(steps[-1]) + 1, steps[firsts[-1]] + spacing))
    known = ~np.isnan(log10_rms)
    sums = np.add.reduceat(np.where(known, log10_rms, 0.0), firsts, axis=1)
    num_known = np.add.reduceat(known, firsts, axis=1, dtype=np.int64)
    means = np.where(num_known > 0, sums / np.maximum(num_known, 1), np.nan)
    return HeatmapData(layers, edges, means, np.logical_or.reduceat((counts > 0) | np.isinf(rms), firsts, axis=1))


def _align(source: dict, layers: Sequence[str], steps: np.ndarray) -> np.ndarray:
    """Return (layers, steps) values, NaN where a layer has none."""
    values = np.full((len(layers), len(steps)), np.nan)
    for row, layer in enumerate(layers):
        if layer in source:
            own = np.array(source[layer].steps, dtype=np.int64)
            shown = own <= steps[-1]
            values[row, np.searchsorted(steps, own[shown])] = np.array(source[layer].values)[shown]
    return values


def _column_starts(steps: np.ndarray, max_columns: int) -> np.ndarray:
    """Return the index of the first step of each column: at most `max_columns` equal ranges, empty ones left out."""
    if len(steps) <= max_columns:
        return np.arange(len(steps))
    columns = (steps - steps[0]) * max_columns // (steps[-1] - steps[0] + 1)
    return np.flatnonzero(np.diff(columns, prepend=-1))


def color_limits(log10_rms: np.ndarray) -> tuple[int, int]:
    """Return the ends of the colour scale in whole decades."""
    finite = log10_rms[np.isfinite(log10_rms)]
    if not finite.size:
        return -MIN_DECADES, 0
    low, high = math.floor(finite.min()), math.ceil(finite.max())
    return min(low, high - MIN_DECADES), high


def draw_heatmap(record: Record, *, until_step: int | None = None) -> bytes:
    """Draw the gradient's rms, layer (input at the top) by step, in powers of ten.

    Args:
        record: The run.
        until_step: Leave out what came after this step.

    Returns:
        A PNG file.
    """
    data = heatmap_data(record, until_step)
    if not data.log10_rms.size:
        return picture_of_words(SIZE_PX, SIZE_PX, "no gradient recorded yet")
    figure = new_figure(SIZE_PX, SIZE_PX)
    axes = figure.add_axes((0.28, 0.1, 0.57, 0.79))
    scale = figure.add_axes((0.885, 0.3, 0.03, 0.59))
    low, high = color_limits(data.log10_rms)
    _draw_cells(axes, data, low, high)
    _draw_scale(scale, low, high)
    label_rows(axes, data.layers, MAX_LABELS, 13 if len(data.layers) <= 16 else 11)
    _write_legend(scale, data)
    heading = {"fontsize": 18, "weight": "bold", "va": "center"}
    write_text(axes, 0.02, 0.965, "Gradient of each layer over the run", transform=figure.transFigure, **heading)
    return to_png(figure)


def _draw_cells(axes: Axes, data: HeatmapData, low: float, high: float) -> None:
    from matplotlib import colormaps
    from matplotlib.colors import to_rgba

    shades = np.clip((np.nan_to_num(data.log10_rms, nan=low, neginf=low) - low) / (high - low), 0, 1)
    colors = colormaps[SEQUENTIAL](shades, bytes=True)
    for cells, color in (
        (np.isnan(data.log10_rms), MISSING_COLOR),
        (np.isneginf(data.log10_rms), ZERO_COLOR),
        (data.nonfinite, ALARM),
    ):
        colors[cells] = [round(255 * part) for part in to_rgba(color)]
    rows = np.arange(len(data.layers) + 1) - 0.5
    axes.pcolorfast(data.edges, rows, colors)
    axes.set_xlim(data.edges[0], data.edges[-1])
    axes.set_ylim(len(data.layers) - 0.5, -0.5)
    axes.set_yticks([])
    axes.tick_params(axis="x", labelsize=14, labelcolor=INK, labelfontfamily=FONT)
    axes.locator_params(axis="x", nbins=6, integer=True)
    axes.ticklabel_format(axis="x", style="plain", useOffset=False)
    axes.set_xlabel("step", fontsize=15, family=FONT, color=INK)
    centres = (data.edges[:-1] + data.edges[1:]) / 2
    bad = np.flatnonzero(data.nonfinite.any(axis=0))
    if bad.size:
        bad = bad[np.unique(np.linspace(0, bad.size - 1, MAX_MARKS).round().astype(int))]
        above = axes.get_xaxis_transform()
        axes.plot(centres[bad], [1.017] * bad.size, "X", color=ALARM, markersize=10, transform=above, clip_on=False)


def _draw_scale(axes: Axes, low: int, high: int) -> None:
    axes.imshow(
        np.linspace(1, 0, 128)[:, None],
        aspect="auto",
        cmap=SEQUENTIAL,
        vmin=0,
        vmax=1,
        extent=(0.0, 1.0, float(low), float(high)),
    )
    axes.set_xticks([])
    axes.yaxis.tick_right()
    ticks = whole_decades(low, high)
    axes.set_yticks(ticks, [power_of_ten(k) for k in ticks], fontsize=14, family=FONT, color=INK)
    write_text(axes, 0.0, 1.02, "rms of g", transform=axes.transAxes, fontsize=13, va="bottom")


def _write_legend(axes: Axes, data: HeatmapData) -> None:
    """Name below the scale the colours outside of it that occur."""
    entries = [
        ("■ zero", ZERO_COLOR, np.isneginf(data.log10_rms).any()),
        ("✖ Inf/NaN", ALARM, data.nonfinite.any()),
        ("■ none", "#b4bac2", (np.isnan(data.log10_rms) & ~data.nonfinite).any()),
    ]
    shown = [(text, color) for text, color, occurs in entries if occurs]
    for row, (text, color) in enumerate(shown):
        write_text(
            axes, -0.3, -0.08 - 0.06 * row, text, transform=axes.transAxes, fontsize=13, color=color, va="center"
        )
