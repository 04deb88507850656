"""Create synthetic records whose gradients are a given function of layer and step, with the names of a real run.

`tests/report/test_fakes.py` compares the names with those of a real run.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from stabletrain.record.reader import Record, Series
from stabletrain.signal.histogram import NONFINITE_BIN, NUM_BINS, Histogram
from stabletrain.vocabulary import metric_names as names
from stabletrain.vocabulary.signals import ACTIVATION, CLIP, DELTA, MOMENT, UPDATE, WEIGHT


def histogram_of(values: np.ndarray) -> Histogram:
    """Count the binary exponents of |values|, one element at a time."""
    counts = np.zeros(NUM_BINS, dtype=np.int64)
    for value in np.abs(values.ravel()):
        if not math.isfinite(value):
            counts[NONFINITE_BIN] += 1
        elif value < 2.0**-126:
            counts[0] += 1
        else:
            counts[math.frexp(value)[1] - 1 + 127] += 1
    return Histogram(counts)


def rms_of(layer: str) -> str:
    return names.of_layer(names.GRADIENT_RMS, layer)


def nonfinite_of(layer: str) -> str:
    return names.of_layer(names.GRADIENT_NONFINITE, layer)


SPARSE = {  # records in which almost everything is missing
    "empty": Record(),
    "one step": Record(scalars={rms_of("L0.w"): Series([5], [1e-3])}),
    "zeros": Record(scalars={rms_of("L0.w"): Series([0, 1], [0.0, 0.0])}),
    "only NaN": Record(scalars={nonfinite_of("L0.w"): Series([0, 1], [3.0, 3.0])}),
    "only histograms": Record(histograms={"L0.w": {4: histogram_of(np.full(3, math.nan))}}),
}


def gradient_histogram(log10_rms: float, size: int = 300, zeros: float = 0.0, seed: int = 0) -> Histogram:
    random = np.random.default_rng(seed)
    values = random.normal(size=size) * random.gamma(1.0, size=size) ** 0.5 * 10.0**log10_rms
    values[: int(zeros * size)] = 0.0
    return histogram_of(values)


def layer_name(index: int, num_layers: int) -> str:
    width = max(2, len(str(num_layers - 1)))
    return f"L{index:0{width}d}.layers.{index // 2}.{'bias' if index % 2 else 'weight'}"


def make_record(
    num_layers: int,
    num_steps: int,
    log10_rms: Callable[[int, int], float],
    *,
    nan_from: int | None = None,
    zeros: float = 0.0,
    num_histograms: int = 9,
    loss: Callable[[int], float] = lambda step: 2.3 * math.exp(-step / 60) + 0.1,
) -> Record:
    """Return the record of a run in which log10 of the gradient's rms is `log10_rms(layer, step)`, plus noise."""
    random = np.random.default_rng(1)
    layers = [layer_name(k, num_layers) for k in range(num_layers)]
    record = Record(info=dict(INFO))
    last = num_steps if nan_from is None else nan_from
    steps = list(range(num_steps))
    record.scalars[names.TRAIN_LOSS] = Series(
        steps[:last], [loss(s) * math.exp(random.normal() * 0.1) for s in steps[:last]]
    )
    for k, layer in enumerate(layers):
        values = [10.0 ** (log10_rms(k, s) + 0.1 * random.normal()) for s in steps[:last]]
        record.scalars[rms_of(layer)] = Series(steps[:last], values)
        bad = [float(300 * (nan_from is not None and s >= nan_from)) for s in steps]
        record.scalars[nonfinite_of(layer)] = Series(steps, bad)
    total = [sum(record.scalars[rms_of(layer)].values[s] ** 2 for layer in layers) ** 0.5 for s in steps[:last]]
    record.scalars[names.NORM_TOTAL] = Series(steps[:last], total)
    record.scalars[names.NORM_AFTER] = Series(steps[:last], [min(t, 1.0) for t in total])
    record.scalars[names.LR] = Series(steps[:last], [0.1 * min(1, (s + 1) / 20) for s in steps[:last]])
    epochs = list(range(19, last, 20))
    record.scalars[names.VAL_LOSS] = Series(epochs, [loss(s) * 1.1 for s in epochs])
    accuracy = [max(0.1, 1 - 0.39 * loss(s)) for s in epochs]
    record.scalars[names.VAL_ACCURACY] = Series(epochs, accuracy)
    for s in sorted({round(f * (num_steps - 1)) for f in np.linspace(0, 1, num_histograms)} if num_histograms else ()):
        for k, layer in enumerate(layers):
            if nan_from is not None and s >= nan_from:
                histogram = histogram_of(np.full(300, np.nan))
            else:
                histogram = gradient_histogram(log10_rms(k, s), zeros=zeros, seed=k)
            record.histograms.setdefault(layer, {})[s] = histogram
    return record


INFO = {
    "run_uid": "3f2a9c",
    "command": "python -m stabletrain model=mlp data=digits model.depth=20 output_dir=runs/x",
    "git_commit": "1bcb978",
    "choices": {"model": "mlp", "data": "digits", "activation": "sigmoid", "optimizer": "sgd"},
    "parameters": {"model.depth": 20, "optimizer.lr": 0.1},
    "dataset": {"name": "digits", "task": "classification", "form": "vector", "num_train": 1437},
    "num_parameters": 123456,
    "versions": {"stabletrain": "0.1.0", "torch": "2.13.0"},
    "experiment_name": "first steps",
    "run_name": "deep sigmoid",
    "started": "2026-05-01T10:00:00",
}


def healthy(num_layers: int = 20, num_steps: int = 300) -> Record:
    return make_record(num_layers, num_steps, lambda k, s: -2.2 - 0.3 * (k % 2) - s / num_steps)


def vanishing(num_layers: int = 20, num_steps: int = 300, num_histograms: int = 9) -> Record:
    return make_record(
        num_layers,
        num_steps,
        lambda k, s: -2.5 - 14 * (num_layers - 1 - k) / num_layers,
        loss=lambda s: 2.3,
        zeros=0.04,
        num_histograms=num_histograms,
    )


def exploding(num_layers: int = 20, num_steps: int = 300) -> Record:
    return make_record(
        num_layers, num_steps, lambda k, s: -2 + 0.25 * (num_layers - k) + 5 * s / num_steps, loss=lambda s: 2.0 + s**2
    )


def nan_run(num_layers: int = 20, num_steps: int = 300) -> Record:
    return make_record(num_layers, num_steps, lambda k, s: -2.5 + 4 * (s / 180) ** 4, nan_from=180)


def with_all_signals(record: Record, num_times: int = 100) -> Record:
    """Add the other signals to a record: delta and activation by module, clipping, update ratios, time."""
    random = np.random.default_rng(2)
    layers = record.layers
    modules = [f"L{k:03d}.layers.{k // 2}.part" for k in range(2 * len(layers))]
    steps = record.scalars[rms_of(layers[0])].steps
    for signal in (DELTA, ACTIVATION, WEIGHT, UPDATE, MOMENT, CLIP):
        rows = modules if signal in (DELTA, ACTIVATION) else layers
        for k, row in enumerate(rows):
            source = record.scalars[rms_of(layers[k * len(layers) // len(rows)])]
            name = names.of_layer(names.of_signal(signal, names.RMS), row)
            record.scalars[name] = Series(source.steps, [v * 0.5 for v in source.values])
        kept = {row: record.histograms[layers[k * len(layers) // len(rows)]] for k, row in enumerate(rows)}
        record.other_histograms[signal] = kept
    for layer in layers:
        ratios = 10.0 ** (-3.2 + 0.3 * random.normal() + 0.1 * random.normal(size=len(steps)))
        record.scalars[names.of_layer(names.UPDATE_RATIO, layer)] = Series(steps, ratios.tolist())
    total = record.scalars[names.NORM_TOTAL]
    record.scalars[names.NORM_AFTER] = Series(total.steps, [0.8 * v for v in total.values])
    record.scalars[names.CLIP_FRACTION] = Series(steps[9::10], [min(1.0, s / 200) for s in steps[9::10]])
    for k in range(2):
        norms = -(0.1 + 0.05 * k) * np.arange(num_times)[::-1] - 1
        by_step = {s: (10.0 ** (norms + 0.1 * random.normal(size=num_times))).astype("<f4") for s in steps[::5]}
        record.vectors[names.of_layer(names.TIME_NORM, f"rnn.l{k}")] = by_step
    return record
