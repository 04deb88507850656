"""The measurements of one step: plain numbers without torch, which rules, records and reports can share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from stabletrain.signal.layer_statistics import LayerStatistics as LayerStatistics
from stabletrain.signal.layer_statistics import Measures
from stabletrain.vocabulary.signals import UPDATE, WEIGHT


@dataclass(slots=True)  # not frozen, which would double the time to create one on every step
class Snapshot:
    """The gradient statistics of one step, for all layers with a gradient in forward order, and the other signals.

    Attributes:
        step: Number of the step.
        layers: The gradient's statistics per layer.
        signals: The statistics of the other signals, by name. `update`, `moment` and `clip` are added once the
            optimizer's step is done.
        units: Fractions of `dead` and of `saturated` units by layer, for layers that have seen enough samples; on the
            first step also of `equal` units.
    """

    step: int
    layers: Sequence[LayerStatistics]
    signals: dict[str, Sequence[LayerStatistics]] = field(default_factory=dict)
    units: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def __getitem__(self, layer: str) -> LayerStatistics:
        for statistics in self.layers:
            if statistics.layer == layer:
                return statistics
        raise KeyError(layer)

    @property
    def is_on_device(self) -> bool:
        """Whether reading the numbers may have to wait for a GPU."""
        return any(getattr(x, "on_device", False) for x in (self.layers, *self.signals.values()))

    @property
    def has_histograms(self) -> bool:
        """Whether the gradient's exponents were counted; reading this does not wait for a GPU."""
        if isinstance(self.layers, Measures):
            return self.layers.with_counts
        return any(x.histogram is not None for x in self.layers)

    @property
    def update_ratios(self) -> Mapping[str, float]:
        """‖ΔW‖/‖W‖ by layer, for layers where both were measured and W is not zero."""
        weights = {x.layer: x.rms for x in self.signals.get(WEIGHT, ()) if x.rms}
        updates = {x.layer: x.rms for x in self.signals.get(UPDATE, ()) if x.rms is not None}
        return {layer: rms / weights[layer] for layer, rms in updates.items() if layer in weights}


def join(parts: Sequence[Snapshot]) -> Snapshot:
    """Return the snapshots of one step as one, such as of several optimizers; of a layer, the first counts."""
    if len(parts) == 1:
        return parts[0]
    signals: dict[str, list[Sequence[LayerStatistics]]] = {}
    units: dict[str, dict[str, float]] = {}
    for part in parts:
        for signal, layers in part.signals.items():
            signals.setdefault(signal, []).append(layers)
        for kind, shares in part.units.items():
            units[kind] = units.get(kind, {}) | dict(shares)
    joined: dict[str, Sequence[LayerStatistics]] = {name: _join_layers(found) for name, found in signals.items()}
    return Snapshot(parts[-1].step, _join_layers([part.layers for part in parts]), joined, units)


def _join_layers(parts: Sequence[Sequence[LayerStatistics]]) -> Measures:
    layers = {x.layer: x for part in reversed(parts) for x in part}
    return Measures.of([layers[name] for name in sorted(layers)])
