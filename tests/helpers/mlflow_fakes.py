"""Create small run folders like those of training, and read their content back from MLflow."""

import math
from pathlib import Path

import numpy as np

from stabletrain.record.reader import Scalar, read_entries
from stabletrain.record.run_folder import RunFolder
from stabletrain.record.writer import RecordWriter
from stabletrain.signal.histogram import Histogram
from stabletrain.signal.snapshot import LayerStatistics, Snapshot
from stabletrain.tracking.store import open_client, quiet
from stabletrain.vocabulary import metric_names as names
from stabletrain.vocabulary.finding import Finding
from stabletrain.vocabulary.signals import GRADIENT, UPDATE, WEIGHT
from stabletrain.vocabulary.statuses import FINISHED, RUNNING

INFO = {
    "run_uid": "uid-1",
    "command": "python -m stabletrain model=rnn",
    "git_commit": "1f" * 20,
    "git_dirty": True,
    "choices": {"model": "rnn", "clip": "norm"},
    "parameters": {"model.depth": 20, "optimizer.lr": 0.001, "model.act[0]": None},
    "dataset": {
        "name": "digits",
        "task": "classification",
        "num_train": 100,
        "num_val": 20,
        "num_test": 30,
        "digest": "abc",
    },
    "num_parameters": 1234,
    "versions": {"torch": "2.13.0"},
    "experiment_name": "demo",
}
NOT_SHIPPED = (
    *(f"{names.of_signal(GRADIENT, quantile)}/" for quantile in names.QUANTILES),
    *(f"{names.of_signal(signal, names.RMS)}/" for signal in (WEIGHT, UPDATE)),
)
FINDING = Finding(
    "vanishing", "critical", "L00.rnn", 10, 20, {"ratio": 1e-5}, "It | fades.", ["init=orthogonal", "norm=layer"]
)


def layer_name(index):
    return f"L{index:02d}.rnn.weight_{index}"


def histogram(rms, size=200):
    numbers = np.abs(np.random.default_rng(0).normal(size=size) * rms).astype(np.float32)
    return Histogram(np.bincount(numbers.view(np.int32) >> 23, minlength=256).astype(np.int64))


def snapshot(step, num_layers, with_histogram=True, with_update=False):
    layers = []
    for index in range(num_layers):
        rms = 10 ** (-0.2 * (num_layers - index) - step / 500)
        layers.append(LayerStatistics(layer_name(index), 200, rms, 0, histogram(rms) if with_histogram else None))
    if not with_update:
        return Snapshot(step, tuple(layers))
    sizes = {WEIGHT: lambda index: 0.1, UPDATE: lambda index: 1e-4 * (index + 1)}
    signals = {
        signal: tuple(LayerStatistics(layer_name(i), 200, rms(i), 0) for i in range(num_layers))
        for signal, rms in sizes.items()
    }
    return Snapshot(step, tuple(layers), signals)


def write_steps(writer, steps, num_layers=3, every=10):
    for step in steps:
        writer.write_scalars(step, {names.TRAIN_LOSS: 2.3 * math.exp(-step / 50), names.NORM_TOTAL: 5 + math.sin(step)})
        if step % every == 0:
            writer.write_snapshot(snapshot(step, num_layers))


def write_all_signals(writer, steps, num_layers=3, every=10):
    """Like `write_steps`, with updates, the gradient through time, and a gradient that is clipped from step 20 on."""
    for step in steps:
        norms = {names.NORM_TOTAL: 5.0, names.NORM_AFTER: 1.0 if step >= 20 else 5.0}
        writer.write_scalars(step, norms | {names.CLIP_FRACTION: max(0, step - 19) / (step + 1)})
        if step % every == 0:
            writer.write_snapshot(snapshot(step, num_layers, with_update=True))
            writer.write_vectors(step, {names.of_layer(names.TIME_NORM, "L00.rnn"): np.geomspace(1e-3, 1, 8)})


def begin_run(path, info=INFO, steps=range(60), **options):
    """Write the record of a run that is still training."""
    folder = RunFolder(path)
    writer = RecordWriter(folder.events)
    if info is not None:
        writer.write_info(info)
    write_steps(writer, steps, **options)
    writer.close()
    folder.config.write_text("model: rnn\n")
    folder.update_summary(status=RUNNING)
    return folder


def end_run(folder, status=FINISHED):
    folder.write_findings([FINDING])
    folder.report.write_text("<h1>report</h1>")
    folder.update_summary(status=status, verdict="vanishing", metrics={"val/accuracy": 0.93125})
    return folder


def finished_run(path, **options):
    return end_run(begin_run(path, **options))


def recorded(folder):
    """Return every scalar of a run that is shipped, as (name, step, value); of a repeated step only the first."""
    found = {}
    for entry, _ in read_entries(folder.events):
        if isinstance(entry, Scalar) and not entry.name.startswith(NOT_SHIPPED):
            found.setdefault((entry.name, entry.step), entry.value)
    return sorted((name, step, value) for (name, step), value in found.items())


def shipped(uri, run_id):
    """Return every metric value on the server as (key, step, value)."""
    client = open_client(uri)
    with quiet():
        keys = client.get_run(run_id).data.metrics
        return sorted((m.key, m.step, m.value) for key in keys for m in client.get_metric_history(run_id, key))


def get_run(uri, run_id):
    with quiet():
        return open_client(uri).get_run(run_id)


def artifact_names(uri, run_id, folder=None):
    with quiet():
        return sorted(Path(f.path).name for f in open_client(uri).list_artifacts(run_id, folder))
