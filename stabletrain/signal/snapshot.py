"""What a watch saw on one step: numbers only, no torch, so that rules, records and reports can share them."""

from __future__ import annotations

from dataclasses import dataclass

from stabletrain.signal.histogram import Histogram


@dataclass(frozen=True)
class LayerStatistics:
    """Statistics of one parameter's gradient.

    Attributes:
        layer: `L<index in forward order>.<parameter path>`.
        size: Number of elements.
        rms: Root mean square over the finite elements, or None if none is finite.
        num_nonfinite: Number of Inf and NaN.
        histogram: Counts of |g| by binary exponent, or None where only norms were asked for.
    """

    layer: str
    size: int
    rms: float | None
    num_nonfinite: int
    histogram: Histogram | None = None


@dataclass(frozen=True)
class Snapshot:
    """All layers with a gradient on one step, in forward order."""

    step: int
    layers: tuple[LayerStatistics, ...]

    def __getitem__(self, layer: str) -> LayerStatistics:
        for statistics in self.layers:
            if statistics.layer == layer:
                return statistics
        raise KeyError(layer)
