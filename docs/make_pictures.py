"""Draws the pictures of the README and the documentation, and trains the networks that they show.

Run it from the top of the repository: `python docs/make_pictures.py`. The cost of watching is drawn from the results of
`python benchmarks/watching.py`; `python docs/make_pictures.py watching` draws only those pictures, and
`python docs/make_pictures.py console` only that of `console=live`.
"""

from __future__ import annotations

import io
import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from PIL import Image
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console

from stabletrain.app.cli import main
from stabletrain.app.commands import train
from stabletrain.app.composition.compose import compose
from stabletrain.record.reader import load_record
from stabletrain.report.pictures import draw_ridges
from stabletrain.training.callbacks.live_table import LiveTable
from stabletrain.training.display.lines import Lines
from stabletrain.training.display.readings import Readings
from stabletrain.vocabulary import metric_names as names

PICTURES = Path(__file__).parent / "pictures"
LIMITS = (-28.0, 2.0)  # of log10 |g|, the same axis for both pictures
RUNS = {
    "sigmoid, small weights": ["experiment=vanishing_depth"],
    "fixed: activation=relu init=he": ["experiment=vanishing_depth", "activation=relu", "init=he"],
}


PROFILES = {
    "20 sigmoid layers, init=normal": (["experiment=vanishing_depth"], "#b2182b"),
    "200 tanh layers, init=critical": (["experiment=critical_depth"], "#2166ac"),
    "500 layers, residual=rezero": (["experiment=rezero_depth"], "#d08c00"),
}


def draw(title: str, overrides: list[str], folder: Path) -> Image.Image:
    """Train a network; return the ridges of its last histogram."""
    main([*overrides, "logger=none", f"output_dir={folder}"])
    histograms = load_record(folder).histograms
    step = max(next(iter(histograms.values())))
    weights = {layer: h[step] for layer, h in histograms.items() if layer.endswith("weight")}
    return Image.open(io.BytesIO(draw_ridges(weights, step=step, title=title, limits=LIMITS)))


def profile(overrides: list[str], folder: Path) -> tuple[list[float], float]:
    """Train a network; return the RMS of the gradient of each hidden weight at step 30, and the test accuracy."""
    main([*overrides, "logger=none", "watch=norms", f"output_dir={folder}"])
    record = load_record(folder)
    series = record.of_layers(names.GRADIENT_RMS).items()
    weights = [s for layer, s in series if ".layers." in layer and layer.endswith("weight")]
    return [s.values[s.steps.index(30)] for s in weights], record.scalars["test/accuracy"].values[-1]


def draw_profiles(folder: Path) -> Figure:
    """Draw the size of the gradient over the depth of three networks."""
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.subplots()
    for number, (title, (overrides, color)) in enumerate(PROFILES.items()):
        values, accuracy = profile(overrides, folder / str(number))
        places = [layer / (len(values) - 1) for layer in range(len(values))]
        axes.plot(places, values, color=color, label=f"{title}: test accuracy {accuracy:.2f}", linewidth=2)
    axes.set(
        yscale="log",
        xlabel="relative depth: 0 is the first hidden layer, 1 the last",
        ylabel="RMS of the weight gradients at step 30",
    )
    axes.legend(frameon=False)
    axes.grid(alpha=0.25)
    return figure


WORKLOADS = {"mlp": ("#b2182b", "o"), "transformer": ("#2166ac", "s"), "lstm": ("#d08c00", "D")}
LOWEST = 0.1  # percent; smaller costs are drawn at this value


def draw_costs(workloads: dict[str, Any]) -> Figure:
    """Draw the cost of each method: one row per method, one mark per workload, quartiles as a line."""
    methods = list(dict.fromkeys(method for found in workloads.values() for method in found["variants"]))
    figure = Figure(figsize=(8, 0.55 * len(methods) + 1.2), layout="constrained")
    axes = figure.subplots()
    for number, (name, found) in enumerate(workloads.items()):
        color, marker = WORKLOADS[name]
        shift = 0.2 * (number - (len(workloads) - 1) / 2)
        rows = [(methods.index(method) + shift, cost) for method, cost in found["variants"].items()]
        low, middle, high = ([max(cost[key], LOWEST) for _, cost in rows] for key in ("low", "percent", "high"))
        label = f"{found['title']}: {found['step_ms']:.0f} ms per step"
        axes.hlines([y for y, _ in rows], low, high, color=color, alpha=0.5, linewidth=3)
        axes.plot(middle, [y for y, _ in rows], marker, color=color, markersize=7, label=label)
    axes.set(xscale="log", xlim=(0.8 * LOWEST, None), xlabel="added to a training step, every layer on every step")
    axes.set_yticks(range(len(methods)), [method.replace("`", "") for method in methods])
    axes.xaxis.set_major_formatter(lambda x, _: f"{'≤ ' if x <= LOWEST else ''}{x:g}%")
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.25)
    figure.legend(loc="outside lower center", frameon=False, ncols=1)
    return figure


def draw_growth(growth: dict[str, Any]) -> Figure:
    """Draw the milliseconds per snapshot against the number of layers and against the number of elements."""
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    titles = {"layers": "layers, 1,000,000 elements in total", "elements": "elements, in 100 layers"}
    for axes, (axis, found) in zip(figure.subplots(1, 2), growth.items(), strict=True):
        low, high = zip(*found["quartiles_ms"], strict=True)
        axes.fill_between(found["sizes"], low, high, color="#2166ac", alpha=0.2, linewidth=0)
        axes.plot(found["sizes"], found["ms"], "o-", color="#2166ac", linewidth=2, label="measured and written")
        last = [found["ms"][-1] * size / found["sizes"][-1] for size in found["sizes"]]
        axes.plot(found["sizes"], last, "--", color="0.5", linewidth=1, label="proportional")
        axes.set(xscale="log", yscale="log", xlabel=titles[axis], ylabel="milliseconds per snapshot")
        axes.grid(alpha=0.25)
        axes.legend(frameon=False)
    return figure


def draw_watching() -> None:
    """Draw the cost of watching from the results of the benchmark."""
    found = json.loads((PICTURES / "watching.json").read_text())
    draw_costs(found["workloads"]).savefig(PICTURES / "watching.png", dpi=130)
    draw_growth(found["growth"]).savefig(PICTURES / "watching_growth.png", dpi=130)


SCREEN = {"width": 100, "height": 32}
SHOWN_SHARE = 0.4  # of the run, at which its screen is drawn
FONTS = re.compile(r"@font-face \{\{.*?\}\}\s*", re.DOTALL)  # that rich would load from the internet


class Photograph(LiveTable):
    """`console=live` on a terminal that nobody sees; keeps one moment of it."""

    def __init__(self) -> None:
        super().__init__(Console(file=io.StringIO(), force_terminal=True, **SCREEN))
        self.lines: Lines | None = None

    def view(self, readings: Readings) -> Lines:
        """Return what is shown, and keep the first moment after `SHOWN_SHARE` of the run."""
        lines = super().view(readings)
        if self.lines is None and (readings.share or 0.0) >= SHOWN_SHARE:
            self.lines = lines
        return lines


def draw_console() -> None:
    """Draw the terminal of a vanishing run with `console=live`."""
    photograph = Photograph()
    line = ["experiment=vanishing_depth", "watch=every_step", "logger=none"]
    with tempfile.TemporaryDirectory() as folder:
        train.run(compose([*line, f"output_dir={folder}/run"]), callbacks=[photograph])
    assert photograph.lines is not None
    console = Console(record=True, file=io.StringIO(), force_terminal=True, **SCREEN)
    console.print(photograph.lines)
    title, form = f"python -m stabletrain {line[0]} {line[1]} console=live", FONTS.sub("", CONSOLE_SVG_FORMAT)
    console.save_svg(str(PICTURES / "console_live.svg"), title=title, code_format=form, unique_id="console-live")


if __name__ == "__main__":
    PICTURES.mkdir(exist_ok=True)
    if sys.argv[1:] == ["console"]:
        sys.exit(draw_console())
    draw_watching()
    if sys.argv[1:] == ["watching"]:
        sys.exit()
    draw_console()
    with tempfile.TemporaryDirectory() as temporary:
        images = [draw(title, line, Path(temporary, str(i))) for i, (title, line) in enumerate(RUNS.items())]
        draw_profiles(Path(temporary, "profiles")).savefig(PICTURES / "three_depths.png", dpi=130)
    both = Image.new("RGB", (sum(i.width for i in images), max(i.height for i in images)), "white")
    for index, image in enumerate(images):
        both.paste(image.convert("RGB"), (sum(i.width for i in images[:index]), 0))
    both.save(PICTURES / "vanishing_and_fixed.png", optimize=True)
