"""Plot of the update ratio ‖ΔW‖/‖W‖ by step, as a band over the layers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from stabletrain.record.reader import Record
from stabletrain.report.grid import Grid, ratio_grid
from stabletrain.report.pictures.cells import label_steps
from stabletrain.report.pictures.drawing import (
    BLUE,
    FONT,
    GRID,
    INK,
    ORANGE,
    new_figure,
    power_of_ten,
    text_picture,
    to_png,
    whole_decades,
    write_text,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH_PX, HEIGHT_PX = 900, 480
NUM_COLORS = 256
# A rule of thumb for SGD: updates are about a thousandth of the weights (A. Karpathy, "makemore part 3", 2022).
USUAL_LOG10 = -3.0
QUANTILES = (0.1, 0.5, 0.9)
MIN_DECADES = 3


@dataclass(frozen=True)
class Bands:
    """Quantiles of log10 ‖ΔW‖/‖W‖ over the layers.

    Attributes:
        steps: (columns,) middle of each column.
        log10: (3, columns) the 0.1, 0.5 and 0.9 quantiles over the layers whose weights changed; NaN where none did.
    """

    steps: np.ndarray
    log10: np.ndarray


def bands_of(grid: Grid) -> Bands:
    """Return the quantiles over the layers in each column, without the layers whose weights did not change."""
    columns = grid.log10.shape[1]
    log10 = np.full((len(QUANTILES), columns), np.nan)
    for column in range(columns):
        values = grid.log10[:, column]
        values = values[np.isfinite(values)]
        if values.size:
            log10[:, column] = np.quantile(values, QUANTILES)
    return Bands((grid.edges[:-1] + grid.edges[1:] - 1) / 2, log10)


def band_limits(grid: Grid) -> tuple[int, int]:
    """Return the ends of the vertical axis as integers in log10; the usual 1e-3 is always on it."""
    finite = grid.log10[np.isfinite(grid.log10)]
    low, high = (float(np.quantile(finite, q)) for q in (0.01, 0.99)) if finite.size else (USUAL_LOG10, USUAL_LOG10)
    low, high = math.floor(min(low, USUAL_LOG10) - 0.1), math.ceil(max(high, USUAL_LOG10) + 0.1)
    return min(low, high - MIN_DECADES), high


def draw_update_ratios(record: Record) -> bytes:
    """Draw the median and the 10–90% band of ‖ΔW‖/‖W‖ over the layers, and each layer as a thin line.

    About 1e-3 is usual: far above it training is unstable, far below it the weights hardly change.

    Args:
        record: The record of the run.

    Returns:
        A PNG file.
    """
    grid = ratio_grid(record)
    if not np.isfinite(grid.log10).any():
        return text_picture(WIDTH_PX, HEIGHT_PX, "no update ratios recorded")
    figure = new_figure(WIDTH_PX, HEIGHT_PX)
    axes = figure.add_axes((0.11, 0.14, 0.86, 0.74))
    bands = bands_of(grid)
    few = {"marker": "o", "markersize": 5} if len(bands.steps) <= 30 else {}
    for values in np.where(np.isfinite(grid.log10), grid.log10, np.nan):
        axes.plot(bands.steps, values, color=BLUE, linewidth=0.6, alpha=0.12)
    axes.fill_between(bands.steps, bands.log10[0], bands.log10[2], color=BLUE, alpha=0.25, linewidth=0)
    axes.plot(bands.steps, bands.log10[1], color=BLUE, linewidth=2.6, label="median, 10–90% of the layers", **few)
    axes.axhline(USUAL_LOG10, color=ORANGE, linewidth=2, linestyle="--", label="10⁻³, the usual ratio")
    _prepare(axes, grid)
    heading = {"fontsize": 18, "weight": "bold", "va": "center"}
    write_text(axes, 0.02, 0.945, "Update ratio ‖ΔW‖/‖W‖ over the run", transform=figure.transFigure, **heading)
    return to_png(figure, NUM_COLORS)


def _prepare(axes: Axes, grid: Grid) -> None:
    low, high = band_limits(grid)
    axes.set_xlim(grid.edges[0], grid.edges[-1])
    axes.set_ylim(low, high)
    ticks = whole_decades(low, high)
    label_steps(axes)
    axes.set_yticks(ticks, [power_of_ten(k) for k in ticks], fontsize=14, family=FONT, color=INK)
    axes.grid(color=GRID, linewidth=1)
    axes.set_axisbelow(True)
    axes.legend(prop={"family": FONT, "size": 13}, labelcolor=INK, loc="best", framealpha=0.85, edgecolor=GRID)
