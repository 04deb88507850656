"""Names of what is recorded: `<signal>/<statistic>[/<layer>]`, the same in TensorBoard and in MLflow."""

from __future__ import annotations

TRAIN_LOSS = "train/loss"
NORM_TOTAL = "gradient/norm/total"  # before clipping
NORM_AFTER = "clip/norm_after"
CLIP_FRACTION = "clip/fraction"  # share of steps clipped so far

GRADIENT_RMS = "gradient/rms"
GRADIENT_NONFINITE = "gradient/nonfinite"
GRADIENT_HISTOGRAM = "gradient/histogram"
HEATMAP = "gradient/heatmap"
RIDGES = "gradient/ridges"

RUN_INFO = "run/info"


def of_layer(statistic: str, layer: str) -> str:
    """Return `<statistic>/<layer>`."""
    return f"{statistic}/{layer}"


def layer_of(name: str, statistic: str) -> str | None:
    """Return the layer in `name` if it is `<statistic>/<layer>`, else None."""
    prefix = statistic + "/"
    return name[len(prefix) :] if name.startswith(prefix) else None
