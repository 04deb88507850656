"""Curves of loss, metrics, gradient norm and learning rate by step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from stabletrain.record.reader import Record, Series
from stabletrain.report.pictures.drawing import (
    ALARM,
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
from stabletrain.vocabulary import metric_names as names

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH_PX = 900
PANEL_PX = 250
MAX_POINTS = 600
MANY = 100  # with more points, a smoothed line is drawn over a pale one
LOG_RATIO = 100  # a loss with a larger ratio of maximum to minimum is drawn on a logarithmic axis
LEARNING_RATE_HEADING, NORM_HEADING = "Learning rate", "Gradient norm"
NUM_COLORS = 256


@dataclass(frozen=True)
class Panel:
    """One plot: a heading and labelled lines."""

    heading: str
    lines: dict[str, Series]
    log: bool = False
    limits: tuple[float, float] | None = None


def panels_of(record: Record) -> list[Panel]:
    """Return the plots that the record has data for, from top to bottom."""
    panels = []
    losses = _present(record, {"training": names.TRAIN_LOSS, "validation": names.VAL_LOSS})
    if losses:
        values = [value for line in losses.values() for value in line.values]
        log = min(values) > 0 and max(values) > LOG_RATIO * min(values)
        limits = (0.0, 1.05 * max(values)) if min(values) > 0 else None
        panels.append(Panel("Loss", losses, log=log, limits=limits))
    for metric in task_metrics(record)[:2]:
        training, validation = (names.of_stage(stage, metric) for stage in (names.TRAIN, names.VAL))
        lines = _present(record, {"training": training, "validation": validation})
        limits = (0.0, 1.03) if names.ACCURACY in metric else None
        panels.append(Panel(metric.replace("_", " ").capitalize(), lines, limits=limits))
    norms = _present(record, {"before clipping": names.NORM_TOTAL, "after clipping": names.NORM_AFTER})
    if norms:
        panels.append(Panel(NORM_HEADING, norms, log=True))
    rates = _present(record, {"learning rate": names.LR})
    if rates:
        panels.append(Panel(LEARNING_RATE_HEADING, rates))
    return panels


def task_metrics(record: Record) -> list[str]:
    """Return the names of the validation metrics other than the loss."""
    found = {names.metric_of(name, names.VAL): series for name, series in record.scalars.items()}
    return [metric for metric, series in found.items() if metric not in (None, names.LOSS) and finite(series).steps]


def _present(record: Record, wanted: dict[str, str]) -> dict[str, Series]:
    found = {label: finite(record.scalars[name]) for label, name in wanted.items() if name in record.scalars}
    return {label: series for label, series in found.items() if series.steps}


def finite(series: Series) -> Series:
    """Return the series without Inf and NaN."""
    pairs = [(s, v) for s, v in zip(series.steps, series.values, strict=True) if math.isfinite(v)]
    return Series([s for s, _ in pairs], [v for _, v in pairs])


def nonfinite_steps(record: Record) -> list[int]:
    """Return the steps at which the gradient of any layer contained Inf or NaN, in ascending order."""
    series = record.of_layers(names.GRADIENT_NONFINITE).values()
    found = [np.asarray(s.steps)[np.asarray(s.values) > 0] for s in series]
    return np.unique(np.concatenate(found)).astype(int).tolist() if found else []


def thin(series: Series, max_points: int = MAX_POINTS) -> tuple[np.ndarray, np.ndarray]:
    """Downsample to about `max_points`: keep the minimum and the maximum of each interval, in their order."""
    steps, values = np.asarray(series.steps), np.asarray(series.values, dtype=float)
    if len(steps) <= max_points:
        return steps, values
    kept = set()
    for part in np.array_split(np.arange(len(steps)), max_points // 2):
        kept |= {int(part[values[part].argmin()]), int(part[values[part].argmax()])}
    index = sorted(kept | {0, len(steps) - 1})
    return steps[index], values[index]


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Return the moving average over `window` values, fewer at the ends."""
    kernel = np.ones(window)
    return np.convolve(values, kernel, "same") / np.convolve(np.ones_like(values), kernel, "same")


def draw_curves(record: Record) -> bytes:
    """Draw loss, metrics, gradient norm and learning rate, one below the other, over a common axis of steps.

    Returns:
        A PNG file.
    """
    panels = panels_of(record)
    if not panels:
        return text_picture(WIDTH_PX, PANEL_PX, "no curve recorded yet")
    height = PANEL_PX * len(panels) + 60
    figure = new_figure(WIDTH_PX, height)
    bad = nonfinite_steps(record)
    every = [step for panel in panels for line in panel.lines.values() for step in (line.steps[0], line.steps[-1])]
    first, last = min(every + bad[:1]), max(every + bad[-1:])
    margin = max(0.01 * (last - first), 0.5)
    for row, panel in enumerate(panels):
        bottom = 1 - (PANEL_PX * (row + 1) - 10) / height
        axes = figure.add_axes((0.11, bottom, 0.86, (PANEL_PX - 62) / height))
        axes.set_xlim(first - margin, last + margin)
        _draw_panel(axes, panel)
        if bad:
            axes.axvline(bad[0], color=ALARM, linewidth=2, linestyle="--", label="✖ first Inf/NaN" * (row == 0))
        _write_legend(axes)
        if row == len(panels) - 1:
            axes.set_xlabel("step", fontsize=14, family=FONT, color=INK)
        else:
            axes.tick_params(labelbottom=False)
    return to_png(figure, NUM_COLORS)


def _draw_panel(axes: Axes, panel: Panel) -> None:
    # The second line is thinner, so that the first remains visible where they coincide.
    for (label, series), color, width in zip(panel.lines.items(), (BLUE, ORANGE), (3.6, 1.8), strict=False):
        steps, values = thin(series)
        label = label if len(panel.lines) > 1 else ""
        if panel.heading == LEARNING_RATE_HEADING or len(steps) <= MANY:
            marker = "o" if len(steps) <= 30 else None
            axes.plot(steps, values, color=color, linewidth=width, marker=marker, label=label)
        else:
            smoothed = 10 ** smooth(np.log10(values), 15) if panel.log and values.min() > 0 else smooth(values, 15)
            axes.plot(steps, values, color=color, linewidth=1, alpha=0.35)
            axes.plot(steps, smoothed, color=color, linewidth=width, label=label)
    if panel.log:
        scale_by_decades(axes, [value for line in panel.lines.values() for value in line.values if value > 0])
    elif panel.limits:
        axes.set_ylim(*panel.limits)
    axes.grid(color=GRID, linewidth=1)
    axes.tick_params(labelsize=13, labelcolor=INK, labelfontfamily=FONT)
    axes.locator_params(axis="x", nbins=8, integer=True)
    heading = {"fontsize": 15, "weight": "bold", "va": "bottom"}
    write_text(
        axes, 0, 1.04, panel.heading + (" (log scale)" if panel.log else ""), transform=axes.transAxes, **heading
    )


def scale_by_decades(axes: Axes, values: Sequence[float]) -> None:
    """Make the vertical axis logarithmic, between whole powers of ten."""
    if not values:
        return
    low, high = math.floor(math.log10(min(values)) - 0.05), math.ceil(math.log10(max(values)) + 0.05)
    axes.set_yscale("log")
    axes.set_ylim(10.0**low, 10.0**high)
    ticks = whole_decades(low, high, max_ticks=6)
    axes.set_yticks([10.0**k for k in ticks], [power_of_ten(k) for k in ticks])
    axes.set_yticks([], minor=True)


def _write_legend(axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        where = {"loc": "lower right", "bbox_to_anchor": (1.0, 0.98), "ncols": 3, "frameon": False}
        axes.legend(handles, labels, prop={"family": FONT, "size": 13}, labelcolor=INK, handlelength=1.2, **where)
