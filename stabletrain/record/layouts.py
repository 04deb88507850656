"""The layout of TensorBoard's custom-scalars page: every layer on one chart, and quantiles of some layers as bands.

TensorBoard merges the layouts of all runs that it shows. A chart appears once for all runs whose layouts define it
equally, so curves are selected by patterns where possible; only the bands name layers.

TensorBoard's charts have a linear axis by default, on which only the run with the largest gradient is visible. For some
layers log10 is therefore written as well, for TensorBoard alone: as tensors, which the reader of the record ignores. In
the first chart, a narrow bundle of curves is healthy and a wide fan is not.
"""

from __future__ import annotations

import functools
import math
import struct
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from tensorboard.plugins.custom_scalar import layout_pb2

from stabletrain.record.encoding import varint
from stabletrain.record.protos import DT_FLOAT, DT_STRING, Summary, SummaryMetadata, TensorProto, TensorShapeProto
from stabletrain.signal.histogram import NUM_BINS, ZERO_BIN
from stabletrain.signal.kernels.quantiles import find_quantiles_
from stabletrain.signal.layer_statistics import Arrays, LayerStatistics, Measures
from stabletrain.signal.snapshot import Snapshot
from stabletrain.vocabulary import metric_names as names
from stabletrain.vocabulary.signals import ACTIVATION, DELTA, UPDATE, WEIGHT

PLUGIN = "custom_scalars"
LOG10_RMS, LOG10_QUANTILES = names.LOG10_RMS, names.LOG10_QUANTILES  # quantiles over elements that are not zero
TAG = "custom_scalars__config__"
LOWER, MEDIAN, UPPER = LOG10_QUANTILES
MAX_SHOWN = 8  # layers with a band and a log10 curve: each band is a card on the page, and a request per run
_messages: Any = layout_pb2  # created at run time: invisible to type checkers

# Families of curves by category and chart; a chart is shown once its first family was recorded.
_CHARTS = {
    "Gradient": {
        "log10 of the rms, some layers": (LOG10_RMS,),
        "rms of every layer": (names.GRADIENT_RMS,),
        "Inf and NaN in every layer": (names.GRADIENT_NONFINITE,),
        "rms at the output of every layer (delta)": (names.of_signal(DELTA, names.RMS),),
        "rms of every layer's activation": (names.of_signal(ACTIVATION, names.RMS),),
    },
    "Update": {"size of the update over size of the weight": (names.UPDATE_RATIO,)},
}
_BANDS = "Gradient: p05, p50 and p95 of log10|g|, zeros left out"
_OF_THE_RUN = {
    "Clipping": {"gradient norm before and after": (names.NORM_TOTAL, names.NORM_AFTER)},
    "Loss": {"loss": (names.TRAIN_LOSS, names.VAL_LOSS)},
}


class Layouts:
    """Encodes what TensorBoard's custom-scalars page needs in addition to the record of a run."""

    def __init__(self) -> None:
        self._families: frozenset[str] = frozenset()
        self._layers: tuple[str, ...] = ()
        self._places: list[int] = []  # of the layers shown
        self._rms, self._quantiles = _Curves([]), _Curves([])

    def encode(self, snapshot: Snapshot) -> bytes:
        """Return a summary: log10 curves of some layers, and the layout if it has changed."""
        families = families_of(snapshot)
        if not families:
            return b""
        layers = _names(snapshot)
        if layers != self._layers:
            self._choose(layers)
        curves = self._encode_curves(snapshot, MEDIAN in families)
        if families <= self._families:
            return curves
        self._families |= families
        return _encode_tensor(encode_layout(layers, self._families)) + curves

    def _choose(self, layers: tuple[str, ...]) -> None:
        shown = layers_shown(layers)
        self._layers, self._places = layers, [layers.index(layer) for layer in shown]
        self._rms = _Curves([names.of_layer(LOG10_RMS, layer) for layer in shown])
        self._quantiles = _Curves([names.of_layer(q, layer) for layer in shown for q in LOG10_QUANTILES])

    def _encode_curves(self, snapshot: Snapshot, with_counts: bool) -> bytes:
        arrays = _arrays_at(self._places, snapshot.layers, with_counts)
        encoded = self._rms.encode(arrays.rms)
        if arrays.counts is None:
            return encoded
        found = np.empty((len(self._places), len(LOG10_QUANTILES)))
        find_quantiles_(arrays.counts, np.array(list(LOG10_QUANTILES.values())), found)
        return encoded + self._quantiles.encode(found.ravel())


class _Curves:
    """Encodes log10 of the same quantities on every step; those without a finite log10 are left out."""

    def __init__(self, tags: Sequence[str]) -> None:
        self._parts = [_before_value(tag) for tag in tags]

    def encode(self, values: np.ndarray) -> bytes:
        found = zip(self._parts, values.tolist(), strict=True)
        parts = (before + struct.pack("<f", math.log10(x)) for before, x in found if 0 < x < math.inf)
        return b"".join(parts)


def families_of(snapshot: Snapshot) -> frozenset[str]:
    """Return the families of curves, one per layer, that a snapshot records and the layout shows."""
    if not len(snapshot.layers):
        return frozenset()
    return _families(tuple(snapshot.signals), snapshot.has_histograms)


@functools.lru_cache(maxsize=64)
def _families(signals: tuple[str, ...], has_histograms: bool) -> frozenset[str]:
    found = {LOG10_RMS, names.GRADIENT_RMS, names.GRADIENT_NONFINITE}
    found |= {names.of_signal(signal, names.RMS) for signal in (DELTA, ACTIVATION) if signal in signals}
    if UPDATE in signals and WEIGHT in signals:
        found.add(names.UPDATE_RATIO)
    if has_histograms:
        found.add(MEDIAN)
    return frozenset(found)


def encode_layout(layers: Sequence[str], families: Collection[str]) -> bytes:
    """Return the layout as the bytes of TensorBoard's message.

    Args:
        layers: Names in forward order.
        families: Families of curves that are recorded (see `families_of`).
    """
    categories = [
        _category(title, [_lines(chart, [f"{f}/.*" for f in of]) for chart, of in charts.items() if of[0] in families])
        for title, charts in _CHARTS.items()
    ]
    if MEDIAN in families:
        bands = [_band(layer) for layer in reversed(layers_shown(layers))]  # TensorBoard 2.21 shows the last one first
        categories.insert(1, _category(_BANDS, bands))
    for title, charts in _OF_THE_RUN.items():
        categories.append(
            _category(title, [_lines(chart, [f"{tag}$" for tag in tags]) for chart, tags in charts.items()])
        )
    return _messages.Layout(category=[c for c in categories if c.chart]).SerializeToString()


def layers_shown(layers: Sequence[str], max_shown: int = MAX_SHOWN) -> list[str]:
    """Return the first, the last and evenly spaced layers between; biases only if there are no other parameters."""
    layers = [layer for layer in layers if not layer.rpartition(".")[2].startswith("bias")] or list(layers)
    num = min(max_shown, len(layers))
    return [layers[i * (len(layers) - 1) // max(num - 1, 1)] for i in range(num)]


def _arrays_at(places: Sequence[int], layers: Sequence[LayerStatistics], with_counts: bool) -> Arrays:
    """Return the statistics of some layers, without zeros in their counts."""
    if isinstance(layers, Measures):
        arrays = layers.arrays
        rms, counts = arrays.rms[places], arrays.counts[places] if arrays.counts is not None else None
    else:
        chosen = [layers[place] for place in places]
        with_counts = with_counts and all(x.histogram is not None for x in chosen)
        chosen = chosen if with_counts else [replace(x, histogram=None) for x in chosen]
        arrays = Measures.of(chosen).arrays
        rms, counts = arrays.rms, arrays.counts
    if counts is not None:
        counts[:, (ZERO_BIN, ZERO_BIN + NUM_BINS)] = 0
    return Arrays(rms, np.zeros(len(places), np.int64), counts)


def _before_value(tag: str) -> bytes:
    """Return a summary of one scalar without its last four bytes, which are the value."""
    metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="scalars"))
    head = Summary.Value(tag=tag, metadata=metadata).SerializeToString()
    tensor = TensorProto(dtype=DT_FLOAT, tensor_shape=TensorShapeProto(), tensor_content=bytes(4)).SerializeToString()
    value = head + b"\x42" + varint(len(tensor)) + tensor  # Value.tensor
    return b"\x0a" + varint(len(value)) + value[:-4]  # Summary.value


def _encode_tensor(layout: bytes) -> bytes:
    metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name=PLUGIN))
    tensor = TensorProto(dtype=DT_STRING, string_val=[layout], tensor_shape=TensorShapeProto())
    return Summary(value=[Summary.Value(tag=TAG, metadata=metadata, tensor=tensor)]).SerializeToString()


def _names(snapshot: Snapshot) -> tuple[str, ...]:
    layers = snapshot.layers
    return layers.layers if isinstance(layers, Measures) else tuple(layer.layer for layer in layers)


def _category(title: str, charts: Sequence[Any]) -> Any:
    return _messages.Category(title=title, chart=charts)


def _lines(title: str, tags: Sequence[str]) -> Any:
    """Return a chart of all curves whose names match one of the patterns."""
    return _messages.Chart(title=title, multiline=_messages.MultilineChartContent(tag=tags))


def _band(layer: str) -> Any:
    value, lower, upper = (names.of_layer(quantile, layer) for quantile in (MEDIAN, LOWER, UPPER))
    series = _messages.MarginChartContent.Series(value=value, lower=lower, upper=upper)
    return _messages.Chart(title=layer, margin=_messages.MarginChartContent(series=[series]))
