"""The data that the page's script draws: the record as JSON, downsampled and quantized to keep the page small."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from stabletrain.diagnosis.findings_text import place
from stabletrain.record.reader import Record
from stabletrain.report import explanations as words
from stabletrain.report.frames import frame_steps
from stabletrain.report.grid import Grid, clipped_share, ratio_grid, signal_grid, time_grids
from stabletrain.report.palette import PALETTE
from stabletrain.report.pictures.cells import OF_GRADIENTS, color_limits
from stabletrain.report.pictures.clip_norms import has_clipping
from stabletrain.report.pictures.curves import NORM_HEADING, Panel, finite, panels_of, thin
from stabletrain.report.pictures.ridges import limits_of_histograms
from stabletrain.report.pictures.update_ratios import band_limits, bands_of
from stabletrain.report.quantize import encode_frame, encode_grid, to_base64
from stabletrain.signal.histogram import Histogram
from stabletrain.vocabulary import metric_names as names
from stabletrain.vocabulary.finding import Finding
from stabletrain.vocabulary.signals import ACTIVATION, CLIP, DELTA, GRADIENT, MOMENT, SIGNALS, UPDATE, WEIGHT

# Sizes before base64 encoding: with 200 layers, 1,000 steps and all signals, a page is smaller than 3 MB.
CELLS_OF_GRADIENT, CELLS_OF_OTHERS, CELLS_OF_TIME = 80_000, 30_000, 60_000  # two bytes each
FRAMES_OF_GRADIENT_BYTES, FRAMES_OF_OTHERS_BYTES = 330_000, 200_000
MAX_FRAMES, MIN_FRAMES, MIN_FRAMES_OF_OTHERS, MIN_COLUMNS = 120, 9, 3, 20
MAX_MARKS = 8

# For each signal: its label, the quantity in a cell, and the magnitude of one element.
LABELS = {
    GRADIENT: ("gradient", "rms of g", "|g|"),
    DELTA: ("gradient at the layer's output (delta)", "rms of δ", "|δ|"),
    ACTIVATION: ("activation", "rms of a", "|a|"),
    WEIGHT: ("weight", "rms of W", "|W|"),
    UPDATE: ("update", "rms of ΔW", "|ΔW|"),
    MOMENT: ("second moment of the optimizer", "rms of v", "v"),
    CLIP: ("gradient after clipping", "rms of g", "|g|"),
    names.UPDATE_RATIO: ("update ratio ‖ΔW‖/‖W‖", "‖ΔW‖/‖W‖", ""),
}


def page_data(record: Record, findings: Sequence[Finding] = ()) -> dict[str, Any]:
    """Return everything that the script draws, as JSON data."""
    present = [s for s in SIGNALS if record.of_layers(names.of_signal(s, names.RMS)) or record.histograms_of(s)]
    if not present and record.of_layers(names.GRADIENT_NONFINITE):
        present = [GRADIENT]
    num_others = max(sum(bool(record.histograms_of(s)) for s in present) - 1, 1)
    signals = [_signal(record, s, FRAMES_OF_OTHERS_BYTES // num_others) for s in present]
    ratios = ratio_grid(record, max_columns=_columns(CELLS_OF_OTHERS, len(record.of_layers(names.UPDATE_RATIO))))
    if ratios.log10.size:
        signals.append(_named(names.UPDATE_RATIO, ratios) | {"frames": None})
    return {
        "colors": PALETTE,
        "signals": [s for s in signals if s["rows"]],
        "clipped": _clipped(record, signals),
        "findings": [_mark(finding) for finding in findings[:MAX_MARKS]],
        "times": _times(record),
        "bands": _bands(ratios) if np.isfinite(ratios.log10).any() else None,
        "charts": [chart for panel in panels_of(record) if (chart := _chart(panel))],
        "clipping": has_clipping(record),
        "keys": {"before": GRADIENT, "after": CLIP, "ratio": names.UPDATE_RATIO},  # signals that have a chart
    }


def to_json(data: Mapping[str, Any]) -> str:
    """Return JSON that is safe inside a `<script>` element: `<`, `>` and `&` escaped, no NaN."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False, ensure_ascii=True)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _columns(cells: int, num_rows: int) -> int:
    return min(400, max(cells // max(num_rows, 1), MIN_COLUMNS))


def _named(key: str, grid: Grid) -> dict[str, Any]:
    label, unit, element = LABELS[key]
    low, high = color_limits(grid.log10, OF_GRADIENTS if key in (GRADIENT, DELTA, CLIP) else None)
    about = {"key": key, "label": label, "unit": unit, "element": element, "low": low, "high": high}
    return about | encode_grid(grid)


def _signal(record: Record, signal: str, frames_bytes: int) -> dict[str, Any]:
    own = signal == GRADIENT
    num_rows = len(record.of_layers(names.of_signal(signal, names.RMS))) or 1
    grid = signal_grid(record, signal, max_columns=_columns(CELLS_OF_GRADIENT if own else CELLS_OF_OTHERS, num_rows))
    histograms = record.histograms_of(signal)
    limits = (FRAMES_OF_GRADIENT_BYTES, MIN_FRAMES) if own else (frames_bytes, MIN_FRAMES_OF_OTHERS)
    return _named(signal, grid) | {"frames": _frames(record, grid.rows, histograms, *limits) if histograms else None}


def _frames(
    record: Record, rows: Sequence[str], histograms: Mapping[str, Mapping[int, Histogram]], budget: int, at_least: int
) -> dict[str, Any]:
    """Choose as many steps as fit into `budget` bytes, but at least `at_least`, and encode their histograms."""

    def encode(step: int) -> bytes:
        return encode_frame(rows, {row: by_step[step] for row, by_step in histograms.items() if step in by_step})

    sample = [len(encode(step)) for step in frame_steps(record, histograms, 5)]
    number = min(max(budget * len(sample) // max(sum(sample), 1), at_least), MAX_FRAMES)
    steps = frame_steps(record, histograms, number)
    low, high = limits_of_histograms(_of_steps(by_step, steps) for by_step in histograms.values())
    sizes = [max((h.size for h in histograms.get(row, {}).values()), default=0) for row in rows]
    data = b"".join(map(encode, steps))
    return {"steps": steps, "sizes": sizes, "low": low, "high": high, "data": to_base64(data)}


def _of_steps(by_step: Mapping[int, Histogram], steps: Iterable[int]) -> list[Histogram]:
    return [by_step[step] for step in steps if step in by_step]


def _clipped(record: Record, signals: Sequence[Mapping[str, Any]]) -> list[int | None] | None:
    """Return the percentage of clipped steps in each column of the first signal."""
    shares = clipped_share(record, np.array(signals[0]["edges"], dtype=float)) if signals else None
    return None if shares is None else [None if np.isnan(x) else round(100 * x) for x in shares]


def _mark(finding: Finding) -> dict[str, Any]:
    return {
        "sign": words.SEVERITY_SIGNS[finding.severity],
        "severity": finding.severity,
        "name": words.verdict_words(finding.kind)[0],
        "layer": finding.layer,
        "where": place(finding),
        "first": finding.first_step,
        "last": finding.last_step,
    }


def _times(record: Record) -> list[dict[str, Any]]:
    num_layers = max(sum(name.startswith(names.TIME_NORM) for name in record.vectors), 1)
    side = max(int((CELLS_OF_TIME / num_layers) ** 0.5), MIN_COLUMNS)
    grids = time_grids(record, max_rows=min(side, 200), max_columns=min(side, 200))
    limits = [color_limits(grid.log10) for grid in grids.values()]
    if not limits:
        return []
    low, high = min(a for a, _ in limits), max(b for _, b in limits)
    return [
        {"key": layer, "label": layer, "unit": "‖∂L/∂h_t‖", "low": low, "high": high, **encode_grid(grid)}
        for layer, grid in grids.items()
    ]


def _bands(grid: Grid) -> dict[str, Any]:
    bands = bands_of(grid)
    low, high = band_limits(grid)
    rounded = [[round(float(x), 3) if np.isfinite(x) else None for x in line] for line in bands.log10]
    return {"steps": bands.steps.tolist(), "log10": rounded, "low": low, "high": high}


def _chart(panel: Panel) -> dict[str, Any]:
    lines = []
    limits = panel.limits if panel.limits and np.isfinite(panel.limits).all() else None
    for label, series in panel.lines.items():
        steps, values = thin(finite(series))
        lines.append({"label": label, "steps": steps.tolist(), "values": [float(f"{v:.5g}") for v in values]})
    is_norm = panel.heading == NORM_HEADING
    return {"heading": panel.heading, "log": panel.log, "limits": limits, "lines": lines, "isNorm": is_norm}
