"""Makes the pictures of the README and the docs, by training what they show.

Run it from the repository's root: `python docs/make_pictures.py`.
"""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from stabletrain.app.cli import main
from stabletrain.record import names
from stabletrain.record.reader import load_record
from stabletrain.report.pictures import draw_ridges

PICTURES = Path(__file__).parent / "pictures"
LIMITS = (-28.0, 2.0)  # the same axis for both
RUNS = {
    "sigmoid, small weights": ["experiment=vanishing_depth"],
    "mended: activation=relu init=he": ["experiment=vanishing_depth", "activation=relu", "init=he"],
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


if __name__ == "__main__":
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        images = [draw(title, line, Path(temporary, str(i))) for i, (title, line) in enumerate(RUNS.items())]
        draw_profiles(Path(temporary, "profiles")).savefig(PICTURES / "three_depths.png", dpi=130)
    both = Image.new("RGB", (sum(i.width for i in images), max(i.height for i in images)), "white")
    for index, image in enumerate(images):
        both.paste(image.convert("RGB"), (sum(i.width for i in images[:index]), 0))
    both.save(PICTURES / "vanishing_and_mended.png", optimize=True)
