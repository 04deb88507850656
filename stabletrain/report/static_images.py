"""Pictures of the page for browsers without scripts and for printing."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np

from stabletrain.record.reader import Record
from stabletrain.report.frames import frame_steps
from stabletrain.report.grid import ratio_grid, time_grids
from stabletrain.report.pictures.clip_norms import draw_clipping, has_clipping
from stabletrain.report.pictures.curves import draw_curves, panels_of
from stabletrain.report.pictures.heatmap import draw_heatmap
from stabletrain.report.pictures.ridges import draw_ridges, ridge_limits
from stabletrain.report.pictures.time_surface import draw_time_surface
from stabletrain.report.pictures.update_ratios import draw_update_ratios
from stabletrain.vocabulary import metric_names as names
from stabletrain.vocabulary.finding import Finding

NUM_FRAMES = 3  # first, middle, last; each takes about 0.1 s and 150 kB


def stills(record: Record, findings: Sequence[Finding] = ()) -> dict[str, Any]:
    """Return source and alternative text of each picture by its place in the page; None if there is nothing to draw."""
    headings = ", ".join(panel.heading.lower() for panel in panels_of(record))
    num_layers = len(record.layers)
    ratios = np.isfinite(ratio_grid(record).log10).any() if record.of_layers(names.UPDATE_RATIO) else False
    of_layers = f"Heatmap of the gradient's rms, {num_layers} layers by step, logarithmic color scale."
    through_time = "Norm of the gradient by time step and training step, logarithmic color scale."
    of_ratios = "Update ratio by step: median and 10th to 90th percentile over the layers, with a line at 0.001."
    of_clipping = "Gradient norm before and after clipping, by step."
    return {
        "curves": _picture(draw_curves(record), f"Curves by step: {headings}.") if headings else None,
        "heatmap": _picture(draw_heatmap(record, findings=findings), of_layers) if num_layers else None,
        "frames": _frames(record),
        "time_surface": _picture(draw_time_surface(record), through_time) if time_grids(record) else None,
        "update_ratios": _picture(draw_update_ratios(record), of_ratios) if ratios else None,
        "clipping": _picture(draw_clipping(record), of_clipping) if has_clipping(record) else None,
    }


def _frames(record: Record) -> list[dict[str, str]]:
    steps = frame_steps(record, record.histograms, NUM_FRAMES)
    limits = ridge_limits(record)
    frames = []
    for step in steps:
        histograms = {layer: by_step[step] for layer, by_step in record.histograms.items() if step in by_step}
        alt = f"Distribution of the gradient's magnitude in each of {len(histograms)} layers at step {step}."
        png = draw_ridges(histograms, step=step, limits=limits)
        frames.append(_picture(png, alt) | {"label": f"step {step:,}"})
    return frames


def _picture(png: bytes, alt: str) -> dict[str, str]:
    return {"source": "data:image/png;base64," + base64.b64encode(png).decode(), "alt": alt}
