"""A record as the doctor wants it: the same numbers, whether the run goes on or ended long ago."""

from __future__ import annotations

from stabletrain.diagnosis.observations import Observations
from stabletrain.record import names
from stabletrain.record.reader import Record
from stabletrain.signal.snapshot import LayerStatistics, Snapshot


def observe(record: Record) -> Observations:
    """Return the numbers of a record that the rules look at."""
    norms = record.scalars.get(names.NORM_TOTAL)
    return Observations(
        snapshots=snapshots_of(record),
        norms=dict(zip(norms.steps, norms.values, strict=True)) if norms else {},
        choices=record.info.get("choices", {}),
        learning_rate=record.info.get("parameters", {}).get("optimizer.lr"),
    )


def snapshots_of(record: Record) -> tuple[Snapshot, ...]:
    """Return the per-layer statistics by step. A layer without one finite element has no rms on that step."""
    by_step: dict[int, list[LayerStatistics]] = {}
    rms = {
        layer: dict(zip(s.steps, s.values, strict=True)) for layer, s in record.of_layers(names.GRADIENT_RMS).items()
    }
    sizes = {layer: next(iter(h.values())).size for layer, h in record.histograms.items() if h}
    for layer, series in record.of_layers(names.GRADIENT_NONFINITE).items():
        for step, num_nonfinite in zip(series.steps, series.values, strict=True):
            histogram = record.histograms.get(layer, {}).get(step)
            size = histogram.size if histogram else sizes.get(layer, 0)  # a sparse gradient's size changes
            statistics = LayerStatistics(layer, size, rms.get(layer, {}).get(step), int(num_nonfinite), histogram)
            by_step.setdefault(step, []).append(statistics)
    return tuple(Snapshot(step, tuple(by_step[step])) for step in sorted(by_step))
