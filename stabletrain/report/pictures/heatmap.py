"""Heatmap of the gradient by layer and step, with the fraction of clipped steps above it and findings outlined."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from stabletrain.record.reader import Record
from stabletrain.report import explanations as words
from stabletrain.report.grid import Grid, clipped_share, signal_grid
from stabletrain.report.pictures.cells import OF_GRADIENTS, color_limits, draw_cells, draw_scale, write_legend
from stabletrain.report.pictures.drawing import (
    BLUE,
    FAINT,
    GRID,
    INK,
    label_rows,
    new_figure,
    text_picture,
    to_png,
    write_text,
)
from stabletrain.vocabulary.finding import Finding, worst_first

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZE_PX = 900
MAX_LABELS = 24
MAX_OUTLINES = 6


def draw_heatmap(record: Record, *, findings: Sequence[Finding] = ()) -> bytes:
    """Draw the rms of the gradient by layer (input at the top) and step, on a logarithmic color scale.

    Args:
        record: The record of the run.
        findings: Findings, of which the `MAX_OUTLINES` worst are outlined at their layer and steps.

    Returns:
        A PNG file.
    """
    grid = signal_grid(record)
    if not grid.log10.size:
        return text_picture(SIZE_PX, SIZE_PX, "no gradient recorded yet")
    figure = new_figure(SIZE_PX, SIZE_PX)
    axes = figure.add_axes((0.28, 0.1, 0.57, 0.79))
    scale = figure.add_axes((0.885, 0.3, 0.03, 0.59))
    low, high = color_limits(grid.log10, OF_GRADIENTS)
    draw_cells(axes, grid, low, high)
    draw_scale(scale, low, high, "rms of g")
    label_rows(axes, grid.rows, MAX_LABELS, 13 if len(grid.rows) <= 16 else 11)
    write_legend(scale, grid)
    _outline(axes, grid, findings)
    shares = clipped_share(record, grid.edges)
    if shares is not None:
        draw_clipped(figure.add_axes((0.28, 0.915, 0.57, 0.024)), grid.edges, shares)
    heading = {"fontsize": 18, "weight": "bold", "va": "center"}
    write_text(axes, 0.02, 0.97, "Gradient of each layer over the run", transform=figure.transFigure, **heading)
    return to_png(figure)


def draw_clipped(axes: Axes, edges: np.ndarray, shares: np.ndarray) -> None:
    """Draw the fraction of clipped steps as a strip of bars; full height means all steps."""
    axes.stairs(np.nan_to_num(shares), edges, fill=True, color=BLUE)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(0, 1)
    axes.set_xticks([])
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set_color(GRID)
    style = {"fontsize": 11, "va": "center", "color": FAINT}
    write_text(axes, -0.015, 0.5, "clipped", transform=axes.transAxes, ha="right", **style)
    known = shares[~np.isnan(shares)]
    mean = words.percent(float(known.mean())) if known.size else ""
    write_text(axes, 1.015, 0.5, mean, transform=axes.transAxes, **style)


def _outline(axes: Axes, grid: Grid, findings: Sequence[Finding]) -> None:
    """Outline layer and steps of the worst findings, with their names; skip those of layers that are not drawn."""
    from matplotlib.patches import Rectangle

    left, right = grid.edges[0], grid.edges[-1]
    height = 0.035 * len(grid.rows)  # of a label, in rows
    free = -0.5 + 0.6 * height
    for finding in worst_first([f for f in findings if f.layer is None or f.layer in grid.rows])[:MAX_OUTLINES]:
        first, last = max(finding.first_step, left), min(finding.last_step + 1, right)
        if first >= right or last <= left:
            continue
        top, rows = (-0.5, len(grid.rows)) if finding.layer is None else (grid.rows.index(finding.layer) - 0.5, 1)
        for width, color in ((4.5, "white"), (2.0, INK)):
            axes.add_patch(Rectangle((first, top), last - first, rows, fill=False, edgecolor=color, linewidth=width))
        free = max(free, top + rows + 0.7 * height if rows == 1 else top + 0.8 * height)
        free = min(free, len(grid.rows) - 0.5 - 0.6 * height)
        name = f"{words.SEVERITY_SIGNS[finding.severity]} {words.verdict_words(finding.kind)[0]}"
        box = {"boxstyle": "round,pad=0.25", "facecolor": "white", "edgecolor": INK}
        write_text(axes, first + 0.012 * (right - left), free, name, fontsize=11, va="center", bbox=box)
        free += 1.1 * height
