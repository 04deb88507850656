"""Draw a grid as colored cells with a color bar, and mark zeros, Inf, NaN and missing values."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from stabletrain.report.grid import Grid
from stabletrain.report.pictures.drawing import (
    ALARM,
    FONT,
    INK,
    SEQUENTIAL,
    power_of_ten,
    whole_decades,
    write_text,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_MARKS = 12
MIN_DECADES = 6  # on a narrower scale, a healthy spread would look dramatic
# log10. Adam's epsilon is 1e-8 (Kingma and Ba 2015): an rms below it hardly moves a weight; above 100 is never healthy.
OF_GRADIENTS = (-8, 2)
ZERO_COLOR = "#000000"
MISSING_COLOR = "#e4e7eb"


def color_limits(log10: np.ndarray, reference: tuple[int, int] | None = None) -> tuple[int, int]:
    """Return the ends of the color scale in whole powers of ten.

    Args:
        log10: The values that are shown.
        reference: Range of log10 that is always on the scale, so that the colors of different runs can be compared.
    """
    finite = log10[np.isfinite(log10)]
    if not finite.size:
        return reference or (-MIN_DECADES, 0)
    low, high = math.floor(finite.min()), math.ceil(finite.max())
    if reference is not None:
        low, high = min(low, reference[0]), max(high, reference[1])
    return min(low, high - MIN_DECADES), high


def draw_cells(axes: Axes, grid: Grid, low: float, high: float) -> None:
    """Draw the rows from top to bottom and the steps from left to right; crosses above mark columns with Inf or NaN."""
    from matplotlib import colormaps
    from matplotlib.colors import to_rgba

    shades = np.clip((np.nan_to_num(grid.log10, nan=low, neginf=low) - low) / (high - low), 0, 1)
    colors = colormaps[SEQUENTIAL](shades, bytes=True)
    for cells, color in (
        (np.isnan(grid.log10), MISSING_COLOR),
        (np.isneginf(grid.log10), ZERO_COLOR),
        (grid.nonfinite, ALARM),
    ):
        colors[cells] = [round(255 * part) for part in to_rgba(color)]
    axes.pcolorfast(grid.edges, np.arange(len(grid.rows) + 1) - 0.5, colors)
    axes.set_xlim(grid.edges[0], grid.edges[-1])
    axes.set_ylim(len(grid.rows) - 0.5, -0.5)
    axes.set_yticks([])
    label_steps(axes)
    centers = (grid.edges[:-1] + grid.edges[1:]) / 2
    bad = np.flatnonzero(grid.nonfinite.any(axis=0))
    if bad.size:
        bad = bad[np.unique(np.linspace(0, bad.size - 1, MAX_MARKS).round().astype(int))]
        above = axes.get_xaxis_transform()
        axes.plot(centers[bad], [1.017] * bad.size, "X", color=ALARM, markersize=10, transform=above, clip_on=False)


def label_steps(axes: Axes) -> None:
    """Label the horizontal axis with the steps."""
    axes.tick_params(axis="x", labelsize=14, labelcolor=INK, labelfontfamily=FONT)
    axes.locator_params(axis="x", nbins=6, integer=True)
    axes.ticklabel_format(axis="x", style="plain", useOffset=False)
    axes.set_xlabel("step", fontsize=15, family=FONT, color=INK)


def draw_scale(axes: Axes, low: int, high: int, label: str) -> None:
    """Draw the color bar."""
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
    above = 1 + 11 / axes.get_window_extent().height  # 11 px, clear of the uppermost tick label
    write_text(axes, 0.0, above, label, transform=axes.transAxes, fontsize=13, va="bottom")


def write_legend(axes: Axes, grid: Grid) -> None:
    """List below the color bar the special colors that occur."""
    entries = [
        ("■ zero", ZERO_COLOR, np.isneginf(grid.log10).any()),
        ("✖ Inf/NaN", ALARM, grid.nonfinite.any()),
        ("■ no data", "#b4bac2", (np.isnan(grid.log10) & ~grid.nonfinite).any()),
    ]
    shown = [(text, color) for text, color, occurs in entries if occurs]
    for row, (text, color) in enumerate(shown):
        style = {"fontsize": 13, "color": color, "va": "center"}
        write_text(axes, -0.3, -0.08 - 0.06 * row, text, transform=axes.transAxes, **style)
