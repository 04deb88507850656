"""Small plots of a run for the comparison page: SVG in the colors of the page, all on the same axes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

from stabletrain.record.reader import Record
from stabletrain.report.grid import all_steps
from stabletrain.report.pictures.curves import finite, thin
from stabletrain.report.pictures.drawing import power_of_ten, whole_decades
from stabletrain.vocabulary import metric_names as names

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 320, 180, 40, 30, 8, 10
NUM_STEPS = 3  # first, middle, last: more lines would be hard to tell apart
MAX_LAYERS, MAX_POINTS = 60, 80
LOWEST, HIGHEST = -20.0, 12.0  # range of log10 that is drawn; values beyond are clamped
LOSSES = {names.TRAIN_LOSS: "first", names.VAL_LOSS: "second"}
LOG_RATIO = 30  # losses with a larger ratio of maximum to minimum are drawn on a logarithmic axis

Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Profile:
    """Rms of the gradient by layer, at a few steps.

    Attributes:
        num_layers: Number of layers of the run.
        lines: For each step, pairs of layer index and log10 of the rms; None where that is 0, missing or not finite.
    """

    num_layers: int
    lines: dict[int, list[tuple[int, float | None]]]


@dataclass(frozen=True)
class Axes:
    """The axis limits that all plots share.

    Attributes:
        rms: Limits of log10 of the gradient's rms.
        loss: Limits of the loss, or of its log10.
        log: Whether the loss is drawn on a logarithmic axis.
        last_step: Last step of the longest run.
    """

    rms: tuple[float, float]
    loss: tuple[float, float]
    log: bool
    last_step: float

    @classmethod
    def around(cls, profiles: Sequence[Profile], loss_curves: Sequence[Mapping[str, Points]]) -> Axes:
        """Return limits that contain every run."""
        sizes = [v for p in profiles for line in p.lines.values() for _, v in line if v is not None]
        low, high = (math.floor(min(sizes)), math.ceil(max(sizes))) if sizes else (-6, 0)
        points = [point for curves in loss_curves for line in curves.values() for point in line]
        losses = [y for _, y in points]
        log = bool(losses) and min(losses) > 0 and max(losses) > LOG_RATIO * min(losses)
        bottom, top = (math.log10(min(losses)), math.log10(max(losses))) if log else (0.0, max(losses, default=1.0))
        if not log and losses and min(losses) < 0:
            bottom = min(losses)
        loss = (bottom, top if top > bottom else bottom + 1.0)
        last_step = max([x for x, _ in points] + [1.0])
        return cls((float(low), float(max(high, low + 1))), loss, log, last_step)


def profile_of(record: Record) -> Profile:
    """Return the gradient by layer at the first, the middle and the last measured step."""
    layers = list(record.of_layers(names.GRADIENT_RMS).values())
    steps = all_steps(layers).tolist()
    chosen = sorted({steps[round(k * (len(steps) - 1) / (NUM_STEPS - 1))] for k in range(NUM_STEPS)}) if steps else []
    shown = sorted({round(i) for i in np.linspace(0, len(layers) - 1, min(len(layers), MAX_LAYERS))})
    by_step = {i: dict(zip(map(int, layers[i].steps), map(float, layers[i].values), strict=True)) for i in shown}
    return Profile(len(layers), {s: [(i, _log10(by_step[i].get(s))) for i in shown] for s in chosen})


def _log10(value: float | None) -> float | None:
    if value is None or not math.isfinite(value) or value <= 0:
        return None
    return min(max(math.log10(value), LOWEST), HIGHEST)


def losses_of(record: Record) -> dict[str, Points]:
    """Return the loss curves, downsampled."""
    found = {}
    for name in LOSSES:
        if name in record.scalars:
            steps, values = thin(finite(record.scalars[name]), MAX_POINTS)
            found[name] = [(float(s), float(v)) for s, v in zip(steps, values, strict=True)]
    return found


def draw_profile(profile: Profile, axes: Axes) -> Markup:
    """Draw the gradient by layer, from the input on the left to the output on the right."""
    if not profile.lines:
        return _placeholder("no gradient was recorded")
    low, high = axes.rms
    parts = [_grid([(k, power_of_ten(k)) for k in whole_decades(low, high, 6)], axes.rms)]
    last = max(profile.num_layers - 1, 1)
    for place, (step, line) in enumerate(profile.lines.items()):
        title = f"step {step:,}"
        for piece in _pieces([(i / last, v) for i, v in line]):
            parts.append(_line(piece, (0.0, 1.0), axes.rms, f"t{place + NUM_STEPS - len(profile.lines)}", title))
    parts += [_text(LEFT, HEIGHT - 9, "input", "start"), _text(WIDTH - RIGHT, HEIGHT - 9, "output", "end")]
    steps = ", ".join(f"{step:,}" for step in profile.lines)
    layers = f"{profile.num_layers} layers" if profile.num_layers > 1 else "1 layer"
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 9, f"{layers}, steps {steps}", "middle"))
    return _svg(parts, f"rms of the gradient by layer at steps {steps}")


def draw_losses(losses: Mapping[str, Points], axes: Axes) -> Markup:
    """Draw the training and validation losses over the steps."""
    lines = {name: line for name, line in losses.items() if line}
    if not lines:
        return _placeholder("no loss was recorded")
    parts = [_grid(_loss_ticks(axes), axes.loss)]
    for name, line in lines.items():
        points = [(x, math.log10(y) if axes.log else y) for x, y in line if not axes.log or y > 0]
        parts.append(_line(points, (0.0, axes.last_step), axes.loss, LOSSES[name], name))
    parts += [
        _text(LEFT, HEIGHT - 9, "step 0", "start"),
        _text(WIDTH - RIGHT, HEIGHT - 9, f"{axes.last_step:,.0f}", "end"),
    ]
    return _svg(parts, "loss over the steps: " + ", ".join(lines))


def _loss_ticks(axes: Axes) -> list[tuple[float, str]]:
    low, high = axes.loss
    if axes.log:
        decades = [(float(k), power_of_ten(k)) for k in whole_decades(low, high, 6)]
        if len(decades) > 1:
            return decades
        return [(low + k * (high - low) / 3, f"{10 ** (low + k * (high - low) / 3):.2g}") for k in range(4)]
    return [(low + k * (high - low) / 4, f"{low + k * (high - low) / 4:.2g}") for k in range(5)]


def _pieces(line: Iterable[tuple[float, float | None]]) -> list[Points]:
    """Return the segments of a line between its gaps."""
    pieces: list[Points] = [[]]
    for x, y in line:
        if y is None:
            pieces.append([])
        else:
            pieces[-1].append((x, y))
    return [piece for piece in pieces if piece]


def _place(x: float, y: float, across: tuple[float, float], up: tuple[float, float]) -> str:
    left = LEFT + (x - across[0]) / (across[1] - across[0]) * (WIDTH - RIGHT - LEFT)
    share = min(max((y - up[0]) / (up[1] - up[0]), 0.0), 1.0)
    return f"{left:.1f},{HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP):.1f}"


def _line(points: Points, across: tuple[float, float], up: tuple[float, float], style: str, title: str) -> Markup:
    places = [_place(x, y, across, up) for x, y in points]
    dot = places[-1].split(",")
    end = Markup('<circle class="{}" cx="{}" cy="{}" r="2.2"/>').format(style, dot[0], dot[1])
    return Markup('<g><title>{}</title><polyline class="{}" points="{}"/>{}</g>').format(
        title, style, " ".join(places), end
    )


def _grid(ticks: Sequence[tuple[float, str]], up: tuple[float, float]) -> Markup:
    parts = []
    for value, label in ticks:
        y = float(_place(0.0, value, (0.0, 1.0), up).split(",")[1])
        parts.append(Markup('<line x1="{}" x2="{}" y1="{}" y2="{}"/>').format(LEFT, WIDTH - RIGHT, y, y))
        parts.append(_text(LEFT - 4, y + 4, label, "end"))
    return Markup("").join(parts)


def _text(x: float, y: float, text: str, anchor: str) -> Markup:
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(x, y, anchor, text)


def _svg(parts: Iterable[Markup], label: str) -> Markup:
    head = Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">').format(WIDTH, HEIGHT, label)
    return head + Markup("").join(parts) + Markup("</svg>")


def _placeholder(text: str) -> Markup:
    return _svg([_text(WIDTH / 2, HEIGHT / 2, text, "middle")], str(escape(text)))
