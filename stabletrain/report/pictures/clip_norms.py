"""Plot of the gradient norm before and after clipping, with the fraction of clipped steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stabletrain.record.reader import Record
from stabletrain.report.grid import clipped_share
from stabletrain.report.pictures.cells import label_steps
from stabletrain.report.pictures.curves import finite, scale_by_decades, thin
from stabletrain.report.pictures.drawing import (
    BLUE,
    FONT,
    GRID,
    INK,
    ORANGE,
    new_figure,
    text_picture,
    to_png,
    write_text,
)
from stabletrain.report.pictures.heatmap import draw_clipped
from stabletrain.vocabulary import metric_names as names

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH_PX, HEIGHT_PX = 900, 480
NUM_COLORS = 256
MAX_COLUMNS = 300


def has_clipping(record: Record) -> bool:
    """Return whether the gradient was ever smaller after clipping than before."""
    series = record.scalars.get(names.CLIP_FRACTION)
    if series is not None and any(value > 0 for value in series.values):
        return True
    before, after = (record.scalars.get(name) for name in (names.NORM_TOTAL, names.NORM_AFTER))
    if before is None or after is None:
        return False
    at = dict(zip(before.steps, before.values, strict=True))
    return any(value < at.get(step, 0.0) for step, value in zip(after.steps, after.values, strict=True))


def draw_clipping(record: Record) -> bytes:
    """Draw the total gradient norm before and after clipping, and above it the fraction of clipped steps.

    Args:
        record: The record of the run.

    Returns:
        A PNG file.
    """
    if not has_clipping(record):
        return text_picture(WIDTH_PX, HEIGHT_PX, "no step was clipped")
    figure = new_figure(WIDTH_PX, HEIGHT_PX)
    axes = figure.add_axes((0.11, 0.14, 0.8, 0.66))
    steps = _draw_norms(axes, record) or record.scalars[names.CLIP_FRACTION].steps
    edges = np.unique(np.append(np.linspace(min(steps), max(steps), MAX_COLUMNS).round(), max(steps) + 1))
    axes.set_xlim(edges[0], edges[-1])
    label_steps(axes)
    shares = clipped_share(record, edges)
    if shares is not None:
        draw_clipped(figure.add_axes((0.11, 0.83, 0.8, 0.05)), edges, shares)
    heading = {"fontsize": 18, "weight": "bold", "va": "center"}
    write_text(axes, 0.02, 0.945, "Gradient norm before and after clipping", transform=figure.transFigure, **heading)
    return to_png(figure, NUM_COLORS)


def _draw_norms(axes: Axes, record: Record) -> list[int]:
    """Draw both lines and return their steps."""
    names_of = {"before clipping": names.NORM_TOTAL, "after clipping": names.NORM_AFTER}
    lines = {label: finite(record.scalars[name]) for label, name in names_of.items() if name in record.scalars}
    for (label, series), color, width in zip(lines.items(), (BLUE, ORANGE), (3.2, 1.8), strict=False):
        marker = {"marker": "o", "markersize": 5} if len(series.steps) <= 30 else {}
        axes.plot(*thin(series), color=color, linewidth=width, label=label, **marker)
    scale_by_decades(axes, [value for series in lines.values() for value in series.values if value > 0])
    axes.tick_params(axis="y", labelsize=14, labelcolor=INK, labelfontfamily=FONT)
    axes.grid(color=GRID, linewidth=1)
    if lines:
        axes.legend(prop={"family": FONT, "size": 13}, labelcolor=INK, loc="best", framealpha=0.85, edgecolor=GRID)
    return [step for series in lines.values() for step in series.steps]
