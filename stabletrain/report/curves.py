"""Curves: loss, metric, gradient norm and learning rate over the steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from stabletrain.record import names
from stabletrain.record.reader import Record, Series
from stabletrain.report.drawing import (
    ALARM,
    BLUE,
    FONT,
    GREEN,
    GRID,
    INK,
    ORANGE,
    new_figure,
    picture_of_words,
    to_png,
    write_text,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH_PX = 900
PANEL_PX = 250
MAX_POINTS = 600
MANY = 100  # from this many points on a smooth line is drawn over a pale one
LOG_RATIO = 100  # a loss that spans more than this is drawn on a logarithmic axis
LEARNING_RATE = "train/lr"


@dataclass(frozen=True)
class Panel:
    """One set of axes: a heading, and lines by their label."""

    heading: str
    lines: dict[str, Series]
    log: bool = False


def panels_of(record: Record) -> list[Panel]:
    """Return what there is to draw, in reading order."""
    panels = []
    losses = _present(record, {"training": names.TRAIN_LOSS, "validation": "val/loss"})
    if losses:
        panels.append(Panel("Loss", losses, log=_spans(losses.values(), LOG_RATIO)))
    for metric in task_metrics(record)[:2]:
        lines = _present(record, {"training": f"train/{metric}", "validation": f"val/{metric}"})
        panels.append(Panel(metric.replace("_", " ").capitalize(), lines))
    norms = _present(record, {"before clipping": names.NORM_TOTAL, "after clipping": names.NORM_AFTER})
    if norms:
        panels.append(Panel("Norm of the whole gradient", norms, log=True))
    rates = _present(record, {"learning rate": LEARNING_RATE})
    if rates:
        panels.append(Panel("Learning rate", rates))
    return panels


def task_metrics(record: Record) -> list[str]:
    """Return the names of the metrics other than the loss that validation recorded."""
    found = [name.removeprefix("val/") for name in record.scalars if name.startswith("val/")]
    return [name for name in found if name != "loss"]


def _present(record: Record, wanted: dict[str, str]) -> dict[str, Series]:
    found = {label: record.scalars.get(name) for label, name in wanted.items()}
    return {label: series for label, series in found.items() if series is not None and series.steps}


def _spans(lines: Sequence[Series] | object, ratio: float) -> bool:
    values = np.concatenate([np.asarray(series.values, dtype=float) for series in lines])  # type: ignore[union-attr]
    return bool(values.min() > 0 and values.max() > ratio * values.min())


def nonfinite_steps(record: Record) -> list[int]:
    """Return the steps on which any layer's gradient held Inf or NaN, rising."""
    series = record.of_layers(names.GRADIENT_NONFINITE).values()
    return sorted({step for s in series for step, value in zip(s.steps, s.values, strict=True) if value > 0})


def thin(series: Series, max_points: int = MAX_POINTS) -> tuple[np.ndarray, np.ndarray]:
    """Return steps and values, at most about `max_points`: of each stretch its lowest and highest, in their order."""
    steps, values = np.asarray(series.steps), np.asarray(series.values, dtype=float)
    if len(steps) <= max_points:
        return steps, values
    kept = set()
    for part in np.array_split(np.arange(len(steps)), max_points // 2):
        kept |= {int(part[values[part].argmin()]), int(part[values[part].argmax()])}
    index = sorted(kept | {0, len(steps) - 1})
    return steps[index], values[index]


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Return the mean over `window` neighbours, fewer at the ends."""
    kernel = np.ones(window)
    return np.convolve(values, kernel, "same") / np.convolve(np.ones_like(values), kernel, "same")


def draw_curves(record: Record) -> bytes:
    """Draw loss, metric, gradient norm and learning rate one below the other over a common axis of steps.

    Returns:
        A PNG file.
    """
    panels = panels_of(record)
    if not panels:
        return picture_of_words(WIDTH_PX, PANEL_PX, "no curve recorded yet")
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
        _draw_panel(axes, panel, bad)
        if row == len(panels) - 1:
            axes.set_xlabel("step", fontsize=14, family=FONT, color=INK)
        else:
            axes.tick_params(labelbottom=False)
    return to_png(figure)


def _draw_panel(axes: Axes, panel: Panel, bad: Sequence[int]) -> None:
    for (label, series), color in zip(panel.lines.items(), (BLUE, ORANGE, GREEN), strict=False):
        steps, values = thin(series)
        many = len(steps) > MANY
        marker = "o" if len(steps) <= 30 else None
        axes.plot(steps, values, color=color, linewidth=1 if many else 2, alpha=0.35 if many else 1, marker=marker)
        if many:
            smoothed = 10 ** smooth(np.log10(values), 15) if panel.log and values.min() > 0 else smooth(values, 15)
            axes.plot(steps, smoothed, color=color, linewidth=2.2)
        axes.plot([], [], color=color, linewidth=3, label=label)
    if panel.log and any(max(line.values) > 0 for line in panel.lines.values()):
        axes.set_yscale("log")
    if bad:
        axes.axvline(bad[0], color=ALARM, linewidth=2, linestyle="--", label="✖ first Inf/NaN")
    axes.grid(color=GRID, linewidth=1)
    axes.tick_params(labelsize=13, labelcolor=INK, labelfontfamily=FONT)
    axes.locator_params(axis="x", nbins=8, integer=True)
    heading = {"fontsize": 15, "weight": "bold", "va": "bottom"}
    write_text(
        axes, 0, 1.04, panel.heading + (" (log scale)" if panel.log else ""), transform=axes.transAxes, **heading
    )
    if len(panel.lines) > 1 or bad:
        where = {"loc": "lower right", "bbox_to_anchor": (1.0, 0.98), "ncols": 3, "frameon": False}
        axes.legend(prop={"family": FONT, "size": 13}, labelcolor=INK, handlelength=1.2, **where)
