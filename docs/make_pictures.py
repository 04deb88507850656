"""Makes the pictures of the README and the docs, by training what they show.

Run it from the repository's root: `python docs/make_pictures.py`. The cost of watching is drawn from what
`python benchmarks/watching.py` measured; `python docs/make_pictures.py watching` draws nothing else.
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

from stabletrain.app.cli import main
from stabletrain.record.reader import load_record
from stabletrain.report.pictures import draw_ridges
from stabletrain.vocabulary import metric_names as names

PICTURES = Path(__file__).parent / "pictures"
LIMITS = (-28.0, 2.0)  # the same axis for both
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
    """Train, and return the ridges of the last histogram."""
    main([*overrides, "logger=none", f"output_dir={folder}"])
    histograms = load_record(folder).histograms
    step = max(next(iter(histograms.values())))
    weights = {layer: h[step] for layer, h in histograms.items() if layer.endswith("weight")}
    return Image.open(io.BytesIO(draw_ridges(weights, step=step, title=title, limits=LIMITS)))


def profile(overrides: list[str], folder: Path) -> tuple[list[float], float]:
    """Train; return the gradient's rms in each hidden layer's weights after 30 steps, and the test accuracy."""
    main([*overrides, "logger=none", "watch=norms", f"output_dir={folder}"])
    record = load_record(folder)
    series = record.of_layers(names.GRADIENT_RMS).items()
    weights = [s for layer, s in series if ".layers." in layer and layer.endswith("weight")]
    return [s.values[s.steps.index(30)] for s in weights], record.scalars["test/accuracy"].values[-1]


def draw_profiles(folder: Path) -> Figure:
    """Draw the gradient over the depth of three networks."""
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.subplots()
    for number, (title, (overrides, colour)) in enumerate(PROFILES.items()):
        values, accuracy = profile(overrides, folder / str(number))
        places = [layer / (len(values) - 1) for layer in range(len(values))]
        axes.plot(places, values, color=colour, label=f"{title}: test accuracy {accuracy:.2f}", linewidth=2)
    axes.set(
        yscale="log",
        xlabel="place in the network: 0 is the first hidden layer, 1 the last",
        ylabel="rms of the weights' gradient at step 30",
    )
    axes.legend(frameon=False)
    axes.grid(alpha=0.25)
    return figure


WORKLOADS = {"mlp": ("#b2182b", "o"), "transformer": ("#2166ac", "s"), "lstm": ("#d08c00", "D")}
LOWEST = 0.1  # percent: less than that is drawn as this


def draw_costs(workloads: dict[str, Any]) -> Figure:
    """Draw what each way of watching costs, one row a way, one mark a workload, quartiles as a line."""
    ways = list(dict.fromkeys(way for found in workloads.values() for way in found["variants"]))
    figure = Figure(figsize=(8, 0.55 * len(ways) + 1.2), layout="constrained")
    axes = figure.subplots()
    for number, (name, found) in enumerate(workloads.items()):
        colour, marker = WORKLOADS[name]
        shift = 0.2 * (number - (len(workloads) - 1) / 2)
        rows = [(ways.index(way) + shift, cost) for way, cost in found["variants"].items()]
        low, middle, high = ([max(cost[key], LOWEST) for _, cost in rows] for key in ("low", "percent", "high"))
        label = f"{found['title']}: {found['step_ms']:.0f} ms a step"
        axes.hlines([y for y, _ in rows], low, high, color=colour, alpha=0.5, linewidth=3)
        axes.plot(middle, [y for y, _ in rows], marker, color=colour, markersize=7, label=label)
    axes.set(xscale="log", xlim=(0.8 * LOWEST, None), xlabel="added to a training step, every layer on every step")
    axes.set_yticks(range(len(ways)), [way.replace("`", "") for way in ways])
    axes.xaxis.set_major_formatter(lambda x, _: f"{'≤ ' if x <= LOWEST else ''}{x:g}%")
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.25)
    figure.legend(loc="outside lower center", frameon=False, ncols=1)
    return figure


def draw_growth(growth: dict[str, Any]) -> Figure:
    """Draw the milliseconds of one snapshot over the number of layers and over that of elements."""
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    titles = {"layers": "layers, 1,000,000 elements in all", "elements": "elements, in 100 layers"}
    for axes, (axis, found) in zip(figure.subplots(1, 2), growth.items(), strict=True):
        low, high = zip(*found["quartiles_ms"], strict=True)
        axes.fill_between(found["sizes"], low, high, color="#2166ac", alpha=0.2, linewidth=0)
        axes.plot(found["sizes"], found["ms"], "o-", color="#2166ac", linewidth=2, label="measured and written")
        last = [found["ms"][-1] * size / found["sizes"][-1] for size in found["sizes"]]
        axes.plot(found["sizes"], last, "--", color="0.5", linewidth=1, label="in proportion")
        axes.set(xscale="log", yscale="log", xlabel=titles[axis], ylabel="milliseconds a snapshot")
        axes.grid(alpha=0.25)
        axes.legend(frameon=False)
    return figure


def draw_watching() -> None:
    """Draw the cost of watching from the benchmark's file."""
    found = json.loads((PICTURES / "watching.json").read_text())
    draw_costs(found["workloads"]).savefig(PICTURES / "watching.png", dpi=130)
    draw_growth(found["growth"]).savefig(PICTURES / "watching_growth.png", dpi=130)


if __name__ == "__main__":
    PICTURES.mkdir(exist_ok=True)
    draw_watching()
    if sys.argv[1:] == ["watching"]:
        sys.exit()
    with tempfile.TemporaryDirectory() as temporary:
        images = [draw(title, line, Path(temporary, str(i))) for i, (title, line) in enumerate(RUNS.items())]
        draw_profiles(Path(temporary, "profiles")).savefig(PICTURES / "three_depths.png", dpi=130)
    both = Image.new("RGB", (sum(i.width for i in images), max(i.height for i in images)), "white")
    for index, image in enumerate(images):
        both.paste(image.convert("RGB"), (sum(i.width for i in images[:index]), 0))
    both.save(PICTURES / "vanishing_and_fixed.png", optimize=True)
