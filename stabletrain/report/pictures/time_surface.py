"""Heatmap of the gradient through time: ‖∂L/∂h_t‖ by time step and training step, one per recurrent layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stabletrain.record.reader import Record
from stabletrain.report.grid import Grid, time_grids
from stabletrain.report.pictures.cells import color_limits, draw_cells, draw_scale, write_legend
from stabletrain.report.pictures.drawing import (
    FAINT,
    labelled_rows,
    new_figure,
    shorten,
    text_picture,
    to_png,
    write_text,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH_PX = 900
PANEL_PX = 420
MAX_LAYERS = 4  # half of them the first layers, half the last
MAX_LABELS = 9
NUM_COLORS = 256


def draw_time_surface(record: Record) -> bytes:
    """Draw the norm of the gradient with respect to the state at each time step, on a logarithmic color scale.

    The beginning of the sequence is at the top: dark rows there mean that the gradient vanishes through time. All
    layers share one color scale; if there are more than four, the first two and the last two are drawn.

    Args:
        record: The record of the run.

    Returns:
        A PNG file.
    """
    grids = time_grids(record)
    if not grids:
        return text_picture(WIDTH_PX, PANEL_PX, "no gradient through time recorded")
    layers = list(grids)
    if len(layers) > MAX_LAYERS:
        layers = layers[: MAX_LAYERS // 2] + layers[-(MAX_LAYERS // 2) :]
    height = PANEL_PX * len(layers)
    figure = new_figure(WIDTH_PX, height)
    limits = [color_limits(grids[layer].log10) for layer in layers]
    low, high = min(a for a, _ in limits), max(b for _, b in limits)
    for row, layer in enumerate(layers):
        bottom = 1 - (PANEL_PX * (row + 1) - 75) / height
        axes = figure.add_axes((0.13, bottom, 0.71, (PANEL_PX - 135) / height))
        draw_cells(axes, grids[layer], low, high)
        _label_time(axes, grids[layer])
        scale = figure.add_axes((0.875, bottom + 60 / height, 0.03, (PANEL_PX - 195) / height))
        draw_scale(scale, low, high, "‖∂L/∂h‖")
        write_legend(scale, grids[layer])
        heading = f"Gradient through time · {shorten(layer, 40)}"
        write_text(axes, 0, 1.07, heading, transform=axes.transAxes, fontsize=16, weight="bold", va="bottom")
    return to_png(figure, NUM_COLORS)


def _label_time(axes: Axes, grid: Grid) -> None:
    """Write time steps to the left of their rows, as many as fit, and mark both ends of the sequence."""
    side = axes.get_yaxis_transform()
    for row in labelled_rows(len(grid.rows), MAX_LABELS):
        label = grid.rows[row].partition("–")[0]
        write_text(axes, -0.012, row, label, transform=side, fontsize=12, ha="right", va="center")
    style = {"fontsize": 11, "color": FAINT, "transform": axes.transAxes}
    write_text(axes, -0.012, 1.03, "start ↓", va="bottom", ha="right", **style)
    write_text(axes, -0.012, -0.05, "↑ end", va="top", ha="right", **style)
