"""Read snapshots back from a record, for comparison with the measured ones."""

from __future__ import annotations

from stabletrain.record.reader import Record
from stabletrain.signal.snapshot import LayerStatistics, Snapshot
from stabletrain.vocabulary import metric_names as names


def snapshots_of(record: Record) -> tuple[Snapshot, ...]:
    """Return the per-layer statistics by step. A layer without a finite element has no rms on that step."""
    by_step: dict[int, list[LayerStatistics]] = {}
    rms = {
        layer: dict(zip(s.steps, s.values, strict=True)) for layer, s in record.of_layers(names.GRADIENT_RMS).items()
    }
    sizes = {layer: next(iter(h.values())).size for layer, h in record.histograms.items() if h}
    for layer, series in record.of_layers(names.GRADIENT_NONFINITE).items():
        for step, num_nonfinite in zip(series.steps, series.values, strict=True):
            histogram = record.histograms.get(layer, {}).get(step)
            size = histogram.size if histogram else sizes.get(layer, 0)  # the size of a sparse gradient varies
            statistics = LayerStatistics(layer, size, rms.get(layer, {}).get(step), int(num_nonfinite), histogram)
            by_step.setdefault(step, []).append(statistics)
    return tuple(Snapshot(step, tuple(by_step[step])) for step in sorted(by_step))
