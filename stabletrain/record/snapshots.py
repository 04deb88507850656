"""Encodes a snapshot as the summary of one event: which statistics of which signal, under which names."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stabletrain.record.encoding import Bytes, Histograms, Scalars
from stabletrain.signal.layer_statistics import LayerStatistics, Measures
from stabletrain.signal.snapshot import Snapshot
from stabletrain.vocabulary import metric_names as names
from stabletrain.vocabulary.signals import GRADIENT, UPDATE, WEIGHT


class Snapshots:
    """Encodes the snapshots of one run; what does not change between steps is built once.

    | name | signal | value |
    |---|---|---|
    | `<signal>/rms/<layer>` | every signal | root mean square over the finite elements |
    | `<signal>/nonfinite/<layer>` | the gradient; others if above 0 | number of Inf and NaN |
    | `gradient/histogram/<layer>` | the gradient | counts of log10 of the absolute value |
    | `histogram/<signal>/<layer>` | every other signal | the same |
    | `gradient/p05/<layer>`, `p50`, `p95` | the gradient, with each histogram | quantiles of the absolute value |
    | `update/ratio/<layer>` | the update | ‖ΔW‖/‖W‖ |
    | `activation/dead/<layer>`, `activation/saturated/<layer>` | units | fraction of such units |
    | `weight/equal/<layer>` | initial weights | fraction of units equal to the first one, if above one half |
    """

    def __init__(self) -> None:
        self._scalars: dict[tuple[str, ...], Scalars] = {}
        self._histograms: dict[tuple[str, ...], Histograms] = {}

    def encode(self, snapshot: Snapshot) -> list[Bytes]:
        """Return the summary of all signals of a snapshot, in parts; an empty list if nothing was measured."""
        parts: list[Bytes] = []
        for signal, layers in {GRADIENT: snapshot.layers, **snapshot.signals}.items():
            for group in _groups(layers):
                parts += self._encode_signal(signal, group)
        if UPDATE in snapshot.signals and WEIGHT in snapshot.signals:
            ratios = snapshot.update_ratios
            parts.append(self._encode_scalars([names.UPDATE_RATIO], list(ratios), [np.array(list(ratios.values()))]))
        for kind, shares in snapshot.units.items():
            columns = [np.array(list(shares.values()))]
            parts.append(self._encode_scalars([names.UNIT_SHARES[kind]], list(shares), columns))
        return [part for part in parts if len(part)]

    def _encode_signal(self, signal: str, measures: Measures) -> list[Bytes]:
        arrays = measures.arrays
        nonfinite = arrays.num_nonfinite.astype(np.float64)
        if signal != GRADIENT:
            nonfinite[nonfinite == 0] = np.nan  # not written
        statistics, columns = [names.RMS, names.NONFINITE], [arrays.rms, nonfinite]
        if measures.with_counts and signal == GRADIENT:
            statistics += names.QUANTILES
            columns += list(measures.quantiles(list(names.QUANTILES.values())).T)
        tags = [names.of_signal(signal, statistic) for statistic in statistics]
        encoded = self._encode_scalars(tags, measures.layers, columns)
        if arrays.counts is None:
            return [encoded]
        return [encoded, self._encode_histograms(names.histograms_of(signal), measures.layers, arrays.counts)]

    def _encode_scalars(self, tags: Sequence[str], layers: Sequence[str], columns: Sequence[np.ndarray]) -> Bytes:
        key = (*tags, *layers)
        if key not in self._scalars:
            self._scalars[key] = Scalars([names.of_layer(tag, layer) for layer in layers for tag in tags])
        if not layers:
            return b""
        values = np.empty((len(layers), len(columns)))
        for i, column in enumerate(columns):
            values[:, i] = column
        return self._scalars[key].encode(values.reshape(-1))

    def _encode_histograms(self, tag: str, layers: Sequence[str], counts: np.ndarray) -> np.ndarray:
        key = (tag, *layers)
        if key not in self._histograms:
            self._histograms[key] = Histograms([names.of_layer(tag, layer) for layer in layers])
        return self._histograms[key].encode(counts)


def _groups(layers: Sequence[LayerStatistics]) -> list[Measures]:
    """Return statistics as arrays: one group, or two if only some layers have a histogram."""
    if isinstance(layers, Measures):
        return [layers] if len(layers) else []
    groups = [[x for x in layers if (x.histogram is None) == missing] for missing in (True, False)]
    return [Measures.of(group) for group in groups if group]
