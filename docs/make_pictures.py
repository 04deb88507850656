"""Makes the picture of the README: the run that goes wrong, and the same run mended.

Run it from the repository's root: `python docs/make_pictures.py`.
"""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

from PIL import Image

from stabletrain.app.cli import main
from stabletrain.record.reader import load_record
from stabletrain.report.pictures import draw_ridges

PICTURES = Path(__file__).parent / "pictures"
LIMITS = (-28.0, 2.0)  # the same axis for both
RUNS = {
    "sigmoid, small weights": ["experiment=vanishing_depth"],
    "mended: activation=relu init=he": ["experiment=vanishing_depth", "activation=relu", "init=he"],
}


def draw(title: str, overrides: list[str], folder: Path) -> Image.Image:
    """Train, and return the ridges of the last histogram."""
    main([*overrides, "logger=none", f"output_dir={folder}"])
    histograms = load_record(folder).histograms
    step = max(next(iter(histograms.values())))
    weights = {layer: h[step] for layer, h in histograms.items() if layer.endswith("weight")}
    return Image.open(io.BytesIO(draw_ridges(weights, step=step, title=title, limits=LIMITS)))


if __name__ == "__main__":
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        images = [draw(title, line, Path(temporary, str(i))) for i, (title, line) in enumerate(RUNS.items())]
    both = Image.new("RGB", (sum(i.width for i in images), max(i.height for i in images)), "white")
    for index, image in enumerate(images):
        both.paste(image.convert("RGB"), (sum(i.width for i in images[:index]), 0))
    both.save(PICTURES / "vanishing_and_mended.png", optimize=True)
