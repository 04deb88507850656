"""Metric names: `<signal>/<statistic>[/<layer>]`, the same in the record, in TensorBoard and in MLflow.

The signals of a network's layers are in `vocabulary.signals`; other names begin with a stage (`train`, `val`, `test`)
or with `clip`, `time` or `system`. Whoever reads or writes a metric imports its name from here: a test fails for a
literal anywhere else.
"""

from __future__ import annotations

from stabletrain.vocabulary.signals import CLIP, DEAD, EQUAL, GRADIENT, SATURATED, SIGNALS, UPDATE

TRAIN, VAL, TEST = STAGES = ("train", "val", "test")
LOSS, ACCURACY, MSE = "loss", "accuracy", "mse"

TRAIN_LOSS, VAL_LOSS, TEST_LOSS = "train/loss", "val/loss", "test/loss"
VAL_ACCURACY, TEST_ACCURACY = "val/accuracy", "test/accuracy"
VAL_MSE, TEST_MSE = "val/mse", "test/mse"
TRAIN_NONFINITE = "train/nonfinite"  # number of Inf and NaN among the training's scalars so far
LR = "train/lr"  # recorded where it changes

NORM_TOTAL = "gradient/norm/total"  # before clipping
NORM_AFTER = "clip/norm_after"
CLIP_FRACTION = "clip/fraction"  # share of steps clipped so far

SYSTEM = "system"
SAMPLES_PER_SECOND = "system/samples_per_second"
STEPS_PER_SECOND = "system/steps_per_second"
STEP_SECONDS = "system/step_seconds"

RMS, NONFINITE, HISTOGRAM = "rms", "nonfinite", "histogram"  # statistics of every signal
QUANTILES = {"p05": 0.05, "p50": 0.5, "p95": 0.95}  # of |g|, with each histogram
RATIO = "ratio"
UPDATE_RATIO = f"{UPDATE}/{RATIO}"  # ‖ΔW‖/‖W‖
UNIT_SHARES = {DEAD: "activation/dead", SATURATED: "activation/saturated", EQUAL: "weight/equal"}
OF_LAYERS = (RMS, NONFINITE, HISTOGRAM, *QUANTILES, RATIO, DEAD, SATURATED, EQUAL)  # statistics recorded by layer
TIME_NORM = "time/norm"  # vectors: ‖∂L/∂h_t‖ for each t

GRADIENT_RMS = "gradient/rms"
GRADIENT_NONFINITE = "gradient/nonfinite"
GRADIENT_HISTOGRAM = "gradient/histogram"
LOG10_RMS = "gradient/log10_rms"  # for TensorBoard's charts, which have no logarithmic axis
LOG10_QUANTILES = {f"gradient/log10_{name}": share for name, share in QUANTILES.items()}

HEATMAP = "gradient/heatmap"  # images in MLflow
RIDGES = "gradient/ridges"
TIME_SURFACE = "time/surface"
UPDATE_RATIOS = "update/ratios"
CLIPPING = "clip/before_after"

RUN_INFO = "run/info"  # JSON: what the run is

FORMER = {"lr": LR}  # names in records of earlier versions


def current_name(name: str) -> str:
    """Return the name that a metric has today, given the name in a record of any version."""
    return FORMER.get(name, name)


def of_stage(stage: str, metric: str) -> str:
    """Return `<stage>/<metric>`, such as `val/accuracy`."""
    return f"{stage}/{metric}"


def is_monitoring(name: str) -> bool:
    """Return whether a metric is one of the monitors (gradient, clipping, system) rather than a result."""
    return name.partition("/")[0] in (GRADIENT, CLIP, SYSTEM)


def metric_of(name: str, stage: str) -> str | None:
    """Return the metric in `name` if it is `<stage>/<metric>`, else None."""
    return layer_of(name, stage)


def nonfinite_of(name: str) -> str:
    """Return where the non-finite values of a scalar are counted: `<signal>/nonfinite`."""
    return f"{name.partition('/')[0]}/{NONFINITE}"


def of_signal(signal: str, statistic: str) -> str:
    """Return `<signal>/<statistic>`."""
    return f"{signal}/{statistic}"


def histograms_of(signal: str) -> str:
    """Return the tag of a signal's histograms: `gradient/histogram`; for any other signal, `histogram/<signal>`.

    TensorBoard opens only the first groups of a page, in the order of their names, and the gradient's must be one of
    them.
    """
    return GRADIENT_HISTOGRAM if GRADIENT_HISTOGRAM.startswith(f"{signal}/") else f"{HISTOGRAM}/{signal}"


def of_layer(statistic: str, layer: str) -> str:
    """Return `<statistic>/<layer>`."""
    return f"{statistic}/{layer}"


def layer_of(name: str, statistic: str) -> str | None:
    """Return the layer in `name` if it is `<statistic>/<layer>`, else None."""
    prefix = statistic + "/"
    return name[len(prefix) :] if name.startswith(prefix) else None


def is_of_layer(name: str) -> bool:
    """Return whether a scalar is `<signal>/<statistic>/<layer>`."""
    signal, _, rest = name.partition("/")
    statistic, _, layer = rest.partition("/")
    return bool(layer) and signal in SIGNALS and statistic in OF_LAYERS
