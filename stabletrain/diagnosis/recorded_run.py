"""Reads the doctor's observations from the record of a run, in progress or ended."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from stabletrain.diagnosis.history import History
from stabletrain.diagnosis.observations import About, Observations, num_dims_by_layer
from stabletrain.vocabulary import metric_names as names
from stabletrain.vocabulary.signals import SIGNALS


class _Series(Protocol):
    @property
    def steps(self) -> Sequence[int]: ...
    @property
    def values(self) -> Sequence[float]: ...


class RecordedRun(Protocol):
    """What the doctor reads of a record; `record.reader.Record` has it."""

    @property
    def scalars(self) -> Mapping[str, _Series]:
        """Series by name."""
        ...

    @property
    def vectors(self) -> Mapping[str, Mapping[int, np.ndarray]]:
        """Arrays by name and step."""
        ...

    @property
    def info(self) -> Mapping[str, Any]:
        """What the run is."""
        ...

    def of_layers(self, statistic: str) -> Mapping[str, _Series]:
        """Return the series `<signal>/<statistic>/<layer>` by layer."""
        ...


OF_LAYERS = (names.RMS, names.NONFINITE, names.HISTOGRAM, *names.QUANTILES, names.RATIO, *names.UNIT_SHARES)


def observe(record: RecordedRun) -> Observations:
    """Return the measurements of a record that the rules read."""
    return replay(record).observations()


def replay(record: RecordedRun) -> History:
    """Return what the run had collected by the end of its record, replayed step by step."""
    history = History()
    for signal in SIGNALS:
        _add_signal(history, record, signal)
    for kind, statistic in names.UNIT_SHARES.items():
        for step, shares in sorted(_by_step(record, statistic).items()):
            history.add_units(step, kind, shares)
    for name, by_step in record.vectors.items():
        layer = names.layer_of(name, names.TIME_NORM)
        for step, norms in by_step.items() if layer else ():
            history.add_time(step, str(layer), norms)
    for name, series in record.scalars.items():
        if not is_of_layer(name):
            for step, value in zip(series.steps, series.values, strict=True):
                history.add_scalars(step, {name: value})
    history.about = about_of(record.info, history.layers)
    return history


def about_of(info: Mapping[str, Any], layers: Iterable[str]) -> About:
    """Return what the record says of a run beside its measurements; `info["training"]` is the plan."""
    training = info.get("training", {})
    return About(
        choices=info.get("choices", {}),
        settings=info.get("parameters", {}),
        num_steps=training.get("num_steps"),
        steps_per_epoch=training.get("steps_per_epoch"),
        num_dims=num_dims_by_layer(layers, training.get("num_dims", {})),
        prior_loss=training.get("prior_loss"),
    )


def is_of_layer(name: str) -> bool:
    """Return whether a scalar is `<signal>/<statistic>/<layer>`."""
    signal, _, rest = name.partition("/")
    statistic, _, layer = rest.partition("/")
    return bool(layer) and signal in SIGNALS and statistic in OF_LAYERS


def _add_signal(history: History, record: RecordedRun, signal: str) -> None:
    """Add the rows of a signal. For signals other than the gradient, a count of zero Inf and NaN is not recorded."""
    rms = _by_step(record, names.of_signal(signal, names.RMS))
    nonfinite = _by_step(record, names.of_signal(signal, names.NONFINITE))
    for step in sorted(rms.keys() | nonfinite.keys()):
        found, bad = rms.get(step, {}), nonfinite.get(step, {})
        layers = sorted(found.keys() | bad.keys())
        history.add("rms", signal, step, layers, np.array([found.get(layer, np.nan) for layer in layers]))
        history.add("nonfinite", signal, step, layers, np.array([bad.get(layer, 0.0) for layer in layers]))


def _by_step(record: RecordedRun, statistic: str) -> dict[int, dict[str, float]]:
    found: dict[int, dict[str, float]] = {}
    for layer, series in record.of_layers(statistic).items():
        for step, value in zip(series.steps, series.values, strict=True):
            found.setdefault(step, {})[layer] = value
    return found
