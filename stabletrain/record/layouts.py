"""What TensorBoard's custom-scalars page shows: every layer on one chart, and quantiles of some layers as bands.

TensorBoard merges the layouts of all runs that it shows. A chart is shown once for all runs whose layouts say the same
of it, so what can be named by a pattern is; only the bands name layers.

Its charts open with a linear axis, on which of three runs only the one with the largest gradient can be seen. For the
first chart some layers' rms is written as log10 too: a narrow bundle is healthy, a fan is not.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Collection, Sequence
from typing import Any

from tensorboard.plugins.custom_scalar import layout_pb2

from stabletrain.record import names
from stabletrain.record.encoding import varint
from stabletrain.record.protos import DT_FLOAT, DT_STRING, Summary, SummaryMetadata, TensorProto, TensorShapeProto
from stabletrain.signal.measures import Measures
from stabletrain.signal.snapshot import ACTIVATION, DELTA, GRADIENT, UPDATE, WEIGHT, Snapshot

PLUGIN = "custom_scalars"
LOG10_RMS = "gradient/log10_rms"  # for TensorBoard alone: a tensor, which the reader of the record passes over
TAG = "custom_scalars__config__"
QUANTILES = names.of_signal(GRADIENT, "p50")
MAX_SHOWN = 8  # layers with a band and a curve of log10; a band is a card, and a request per run
_messages: Any = layout_pb2  # made at run time, so type checkers cannot see them

# Families of curves by category and chart; a chart is there once its first family was recorded.
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
_BANDS = "Gradient: p05, p50 and p95 of |g|"
_OF_THE_RUN = {
    "Clipping": {"gradient norm before and after": (names.NORM_TOTAL, names.NORM_AFTER)},
    "Loss": {"loss": (names.TRAIN_LOSS, "val/loss")},
}


class Layouts:
    """Encodes what TensorBoard's custom-scalars page needs beside the record of one run."""

    def __init__(self) -> None:
        self._families: frozenset[str] = frozenset()
        self._layers: tuple[str, ...] = ()
        self._curves: dict[int, bytes] = {}  # by place among the layers, the bytes before a value of log10

    def encode(self, snapshot: Snapshot) -> bytes:
        """Return a summary: log10 of the rms of some layers, and the layout if it has more to show than before."""
        layers = _names(snapshot)
        if layers != self._layers:
            self._layers = layers
            self._curves = {layers.index(layer): _before_value(layer) for layer in layers_shown(layers)}
        curves, families = self._encode_curves(snapshot), families_of(snapshot)
        if families <= self._families:
            return curves
        self._families |= families
        return _encode_tensor(encode_layout(layers, self._families)) + curves

    def _encode_curves(self, snapshot: Snapshot) -> bytes:
        layers = snapshot.layers
        parts = []
        for place, before in self._curves.items():
            rms = layers.arrays.rms[place] if isinstance(layers, Measures) else layers[place].rms
            if rms and math.isfinite(rms):
                parts += [before, struct.pack("<f", math.log10(rms))]
        return b"".join(parts)


def families_of(snapshot: Snapshot) -> frozenset[str]:
    """Return what a snapshot records with one curve per layer, as far as the layout shows it."""
    if not len(snapshot.layers):
        return frozenset()
    found = {LOG10_RMS, names.GRADIENT_RMS, names.GRADIENT_NONFINITE}
    found |= {names.of_signal(signal, names.RMS) for signal in (DELTA, ACTIVATION) if signal in snapshot.signals}
    if UPDATE in snapshot.signals and WEIGHT in snapshot.signals:
        found.add(names.UPDATE_RATIO)
    if _has_counts(snapshot):
        found.add(QUANTILES)
    return frozenset(found)


def encode_layout(layers: Sequence[str], families: Collection[str]) -> bytes:
    """Return the layout as the bytes of TensorBoard's message.

    Args:
        layers: Names in forward order.
        families: What is recorded with one curve per layer (see `families_of`).
    """
    categories = [
        _category(title, [_lines(chart, [f"{f}/.*" for f in of]) for chart, of in charts.items() if of[0] in families])
        for title, charts in _CHARTS.items()
    ]
    if QUANTILES in families:
        bands = [_band(layer) for layer in reversed(layers_shown(layers))]  # TensorBoard 2.21 shows the last one first
        categories.insert(1, _category(_BANDS, bands))
    for title, charts in _OF_THE_RUN.items():
        categories.append(
            _category(title, [_lines(chart, [f"{tag}$" for tag in tags]) for chart, tags in charts.items()])
        )
    return _messages.Layout(category=[c for c in categories if c.chart]).SerializeToString()


def layers_shown(layers: Sequence[str], max_shown: int = MAX_SHOWN) -> list[str]:
    """Return the first layer, the last and evenly spaced ones between; biases only where there is nothing else."""
    layers = [layer for layer in layers if not layer.rpartition(".")[2].startswith("bias")] or list(layers)
    num = min(max_shown, len(layers))
    return [layers[i * (len(layers) - 1) // max(num - 1, 1)] for i in range(num)]


def _before_value(layer: str) -> bytes:
    """Return a summary of one scalar up to its last four bytes, which are the number."""
    metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="scalars"))
    head = Summary.Value(tag=names.of_layer(LOG10_RMS, layer), metadata=metadata).SerializeToString()
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


def _has_counts(snapshot: Snapshot) -> bool:
    if isinstance(snapshot.layers, Measures):  # those of a GPU may be on their way: asked for nothing else
        return snapshot.layers.with_counts
    return any(layer.histogram is not None for layer in snapshot.layers)


def _category(title: str, charts: Sequence[Any]) -> Any:
    return _messages.Category(title=title, chart=charts)


def _lines(title: str, tags: Sequence[str]) -> Any:
    """Return a chart of all curves whose names begin as one of the patterns says."""
    return _messages.Chart(title=title, multiline=_messages.MultilineChartContent(tag=tags))


def _band(layer: str) -> Any:
    value, lower, upper = (names.of_layer(names.of_signal(GRADIENT, q), layer) for q in ("p50", "p05", "p95"))
    series = _messages.MarginChartContent.Series(value=value, lower=lower, upper=upper)
    return _messages.Chart(title=layer, margin=_messages.MarginChartContent(series=[series]))
