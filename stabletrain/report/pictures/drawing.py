"""Shared by all pictures: figures without global state, safe text, colors and tick marks."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 100
FONT = "DejaVu Sans"  # part of matplotlib, so that pictures look the same on every machine
SEQUENTIAL = "viridis"  # monotonic in lightness: safe for color-blind readers and grayscale prints
INK = "#1b1f24"
FAINT = "#6a737d"
GRID = "#d9dde2"
ALARM = "#b3001b"  # always together with a symbol
BLUE, ORANGE = "#0072b2", "#d55e00"  # after Okabe and Ito, Color Universal Design (2008)

SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def new_figure(width_px: int, height_px: int) -> Figure:
    """Return an empty white figure that is not registered with pyplot."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width_px / DPI, height_px / DPI), dpi=DPI, facecolor="white")


def to_png(figure: Figure, num_colors: int | None = None) -> bytes:
    """Return the figure as a PNG file; a palette of `num_colors` makes it three times smaller at no cost in time."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    if num_colors is not None:
        image = image.quantize(num_colors, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    image.save(buffer, "png", compress_level=6)
    return buffer.getvalue()


def write_text(axes: Axes, x: float, y: float, text: str, **style: Any) -> None:
    """Write `text` literally: no math mode, and no warning about characters that the font lacks."""
    axes.text(x, y, printable(text), **{"family": FONT, "color": INK, "parse_math": False, "clip_on": False} | style)


def printable(text: str) -> str:
    """Return `text` on one line, with `?` for each character that the font cannot draw."""
    from matplotlib.font_manager import findfont, get_font

    font: Any = get_font(findfont(FONT))
    return "".join(c if font.get_char_index(ord(c)) else "?" for c in " ".join(text.split()))


def text_picture(width_px: int, height_px: int, text: str) -> bytes:
    """Return a picture that contains only `text`, for a record without data to draw."""
    figure = new_figure(width_px, height_px)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    write_text(axes, 0.5, 0.5, text, fontsize=18, ha="center", va="center", color=FAINT)
    return to_png(figure)


def power_of_ten(exponent: int) -> str:
    """Return `10⁻³` for -3."""
    return "10" + str(exponent).translate(SUPERSCRIPTS)


def whole_decades(low: float, high: float, max_ticks: int = 9) -> list[int]:
    """Return at most `max_ticks` evenly spaced integers in [low, high] for tick marks."""
    span = max(high - low, 1.0)
    stride = next(s for s in (1, 2, 5, 10, 20, 50, 100) if span / s <= max_ticks - 1 or s == 100)
    return [k for k in range(math.ceil(low), math.floor(high) + 1) if k % stride == 0]


def shorten(name: str, max_length: int = 24) -> str:
    """Replace the middle of `name` by an ellipsis if it is longer than `max_length`; keep its index and its end."""
    if len(name) <= max_length:
        return name
    tail = max_length // 2
    return name[: max_length - tail - 1] + "…" + name[-tail:]


def labelled_rows(num_rows: int, max_labels: int) -> list[int]:
    """Return the rows to label: all if there is room, else evenly spaced ones including the first and the last."""
    if num_rows <= max_labels:
        return list(range(num_rows))
    return [round(k * (num_rows - 1) / (max_labels - 1)) for k in range(max_labels)]


def label_rows(axes: Axes, layers: list[str], max_labels: int, fontsize: float) -> None:
    """Write layer names to the left of their rows, as many as fit, and mark the input and the output end."""
    side = axes.get_yaxis_transform()
    end = {"transform": axes.transAxes, "fontsize": fontsize, "color": FAINT, "ha": "right"}
    write_text(axes, -0.015, 1.012, "input ↓", va="bottom", **end)
    write_text(axes, -0.09, -0.012, "↑ output", va="top", **end)
    for row in labelled_rows(len(layers), max_labels):
        name = shorten(layers[row])
        write_text(axes, -0.015, row, name, transform=side, fontsize=fontsize, ha="right", va="center")
