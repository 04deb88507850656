"""Reads the doctor's observations from the record of a run, in progress or ended."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, cast

import numpy as np

from stabletrain.diagnosis.history import History
from stabletrain.diagnosis.observations import About, Observations, num_dims_by_layer
from stabletrain.vocabulary import metric_names as names
from stabletrain.vocabulary.notice import Notice
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


class _Rows(Protocol):
    @property
    def steps(self) -> Any: ...
    @property
    def layers(self) -> tuple[str, ...]: ...
    @property
    def values(self) -> Mapping[str, np.ndarray]: ...
    @property
    def stride(self) -> int: ...
    @property
    def num_seen(self) -> int: ...


class ThinnedRun(Protocol):
    """A record whose tables are bounded; `record.bounded_reader.BoundedRecord` is one."""

    def rows_of(self, key: str) -> _Rows | None:
        """Return the rows of a signal's `rms` and `nonfinite`, or of another statistic such as `activation/dead`."""
        ...


def observe(record: RecordedRun) -> Observations:
    """Return the measurements of a record that the rules read."""
    return replay(record).observations()


def replay(record: RecordedRun) -> History:
    """Return what the run had collected by the end of its record, replayed step by step.

    A record that was read in bounded memory (`record.bounded_reader`) has been thinned as the history would thin it.
    """
    history = History()
    if hasattr(record, "rows_of"):
        _add_tables(history, cast("ThinnedRun", record))
    else:
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
        if not names.is_of_layer(name):
            history.add_series(name, series.steps, series.values)
    for fields in record.info.get("notices", []):
        history.add_notice(Notice(**fields))
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
        frozen_share=training.get("frozen_share") or 0.0,
        weight_gain=training.get("weight_gain"),
        prior_loss=training.get("prior_loss"),
        prior_is_measured=bool(training.get("prior_is_measured")),
        is_game=bool(training.get("is_game")),
        is_open_ended=bool(training.get("is_open_ended")),
        client=training.get("client"),
    )


def _add_tables(history: History, record: ThinnedRun) -> None:
    """Add what `_add_signal` and the shares of units add, a table at a time."""
    for signal in SIGNALS:
        if (rows := record.rows_of(signal)) is None:
            continue
        about = {"stride": rows.stride, "num_seen": rows.num_seen}
        rms, counts = (rows.values[names.of_signal(signal, statistic)] for statistic in (names.RMS, names.NONFINITE))
        measured = ~np.isnan(rms) | ~np.isnan(counts)
        history.add_rows("rms", signal, rows.steps, rows.layers, rms, **about)
        counts = np.where(measured, np.nan_to_num(counts), np.nan)
        history.add_rows("nonfinite", signal, rows.steps, rows.layers, counts, **about)
    for kind, statistic in names.UNIT_SHARES.items():
        if (rows := record.rows_of(statistic)) is not None:
            about = {"stride": rows.stride, "num_seen": rows.num_seen}
            history.add_rows("units", kind, rows.steps, rows.layers, rows.values[statistic], **about)


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
