"""Names of what is recorded: `<signal>/<statistic>[/<layer>]`, the same in TensorBoard and in MLflow."""

from __future__ import annotations

TRAIN_LOSS = "train/loss"
LR = "lr"  # recorded where it changes
NORM_TOTAL = "gradient/norm/total"  # before clipping
NORM_AFTER = "clip/norm_after"
CLIP_FRACTION = "clip/fraction"  # share of steps clipped so far

RMS, NONFINITE, HISTOGRAM = "rms", "nonfinite", "histogram"  # of every signal, see signal/snapshot
QUANTILES = {"p05": 0.05, "p50": 0.5, "p95": 0.95}  # of |g|, with each histogram
UPDATE_RATIO = "update/ratio"  # ‖ΔW‖/‖W‖
UNIT_SHARES = {"dead": "activation/dead", "saturated": "activation/saturated", "equal": "weight/equal"}  # signal/units
TIME_NORM = "time/norm"  # vectors: ‖∂L/∂h_t‖ for each t
TIME_SURFACE = "time/surface"
UPDATE_RATIOS = "update/ratios"
CLIPPING = "clip/before_after"

GRADIENT_RMS = "gradient/rms"
GRADIENT_NONFINITE = "gradient/nonfinite"
GRADIENT_HISTOGRAM = "gradient/histogram"
HEATMAP = "gradient/heatmap"
RIDGES = "gradient/ridges"

RUN_INFO = "run/info"

TRAIN, VAL, TEST = STAGES = ("train", "val", "test")
LOSS, ACCURACY, MSE = "loss", "accuracy", "mse"
VAL_LOSS, TEST_LOSS = "val/loss", "test/loss"
VAL_ACCURACY, TEST_ACCURACY = "val/accuracy", "test/accuracy"
VAL_MSE, TEST_MSE = "val/mse", "test/mse"
SAMPLES_PER_SECOND = "system/samples_per_second"


def of_stage(stage: str, metric: str) -> str:
    """Return `<stage>/<metric>`, such as `val/accuracy`."""
    return f"{stage}/{metric}"


def metric_of(name: str, stage: str) -> str | None:
    """Return the metric in `name` if it is `<stage>/<metric>`, else None."""
    return layer_of(name, stage)


def of_signal(signal: str, statistic: str) -> str:
    """Return `<signal>/<statistic>`."""
    return f"{signal}/{statistic}"


def histograms_of(signal: str) -> str:
    """Return the tag of a signal's histograms: `gradient/histogram`, of another signal `histogram/<signal>`.

    TensorBoard opens the first groups of a page only, by their names; the gradient is to be among them.
    """
    return GRADIENT_HISTOGRAM if GRADIENT_HISTOGRAM.startswith(f"{signal}/") else f"{HISTOGRAM}/{signal}"


def of_layer(statistic: str, layer: str) -> str:
    """Return `<statistic>/<layer>`."""
    return f"{statistic}/{layer}"


def layer_of(name: str, statistic: str) -> str | None:
    """Return the layer in `name` if it is `<statistic>/<layer>`, else None."""
    prefix = statistic + "/"
    return name[len(prefix) :] if name.startswith(prefix) else None
