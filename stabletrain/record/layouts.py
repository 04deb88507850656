"""What TensorBoard's custom-scalars page shows: every layer on one chart, and quantiles of some layers as bands.

TensorBoard merges the layouts of all runs that it shows. A chart is shown once for all runs whose layouts say the same
of it, so what can be named by a pattern is; only the bands name layers.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from tensorboard.plugins.custom_scalar import layout_pb2

from stabletrain.record import names
from stabletrain.signal.measures import Measures
from stabletrain.signal.snapshot import ACTIVATION, DELTA, GRADIENT, UPDATE, WEIGHT, Snapshot

PLUGIN = "custom_scalars"
TAG = "custom_scalars__config__"
QUANTILES = names.of_signal(GRADIENT, "p50")
MAX_BANDS = 8  # charts with bands; each is a card and a request per run, and eight fill two rows of a wide page
_messages: Any = layout_pb2  # made at run time, so type checkers cannot see them

# Families of curves by category and chart; a chart is there once its first family was recorded.
_CHARTS = {
    "Gradient": {
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


def families_of(snapshot: Snapshot) -> frozenset[str]:
    """Return what a snapshot records with one curve per layer, as far as the layout shows it."""
    if not len(snapshot.layers):
        return frozenset()
    found = {names.GRADIENT_RMS, names.GRADIENT_NONFINITE}
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
        categories.insert(1, _category(_BANDS, [_band(layer) for layer in layers_with_bands(layers)]))
    for title, charts in _OF_THE_RUN.items():
        categories.append(
            _category(title, [_lines(chart, [f"{tag}$" for tag in tags]) for chart, tags in charts.items()])
        )
    return _messages.Layout(category=[c for c in categories if c.chart]).SerializeToString()


def layers_with_bands(layers: Sequence[str], max_bands: int = MAX_BANDS) -> list[str]:
    """Return the first layer, the last and evenly spaced ones between; biases only where there is nothing else."""
    layers = [layer for layer in layers if not layer.rpartition(".")[2].startswith("bias")] or list(layers)
    num = min(max_bands, len(layers))
    return [layers[i * (len(layers) - 1) // max(num - 1, 1)] for i in range(num)]


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
