"""A log of another tool, as the rules read it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from stabletrain.record.foreign_logs.cells import is_clock
from stabletrain.record.foreign_logs.columns import EPOCHS, ROWS, STEPS, Columns
from stabletrain.record.reader import Series
from stabletrain.vocabulary.log_format import LogFormat
from stabletrain.vocabulary.metric_names import ACCURACY, STAGES, TRAIN_LOSS, of_stage

STEPS_OF_EPOCH = 100  # an epoch counts as so many steps for the patience of the rules: few have less
PERCENT = 1.5  # an accuracy above this is in percent
NOT_FALLING = (  # names that tell what kind of training it is
    (
        re.compile(r"(?<![a-z])(rew|rewards?|returns?|ep_?rew_?mean|episodic_return)(?![a-z])", re.IGNORECASE),
        "where rewards are maximized, the loss does not show whether anything is learned",
    ),
    (
        re.compile(r"(?<![a-z])([gd]_?loss|loss_?[gd]|generator|discriminator|critic)(?![a-z])", re.IGNORECASE),
        "where two networks work against each other, neither loss need fall",
    ),
)
UNITS = {STEPS: "steps", EPOCHS: "epochs", ROWS: "rows"}


@dataclass(frozen=True)
class ForeignLog:
    """The numbers of a log under our names; it can be read as `diagnosis.recorded_run.RecordedRun`.

    Attributes:
        path: What was read.
        format: Its kind.
        scalars: Series by our name, not finite ones included. Of epochs, steps are multiples of `steps_per_unit`.
        read_as: Their name for each of ours.
        others: Names that no rule reads.
        unit: What the log counts: `steps`, `epochs` or `rows`.
        steps_per_unit: 1, or the number of steps that an epoch counts as.
        num_rows: Number of rows or events that were read.
        info: What the log says about the run, as in our records.
        notes: What could not be read, in sentences.
    """

    path: Path
    format: LogFormat
    scalars: Mapping[str, Series] = field(default_factory=dict)
    read_as: Mapping[str, str] = field(default_factory=dict)
    others: tuple[str, ...] = ()
    unit: str = UNITS[STEPS]
    steps_per_unit: int = 1
    num_rows: int = 0
    info: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def vectors(self) -> Mapping[str, Mapping[int, np.ndarray]]:
        """None: other tools do not log them."""
        return {}

    def of_layers(self, statistic: str) -> Mapping[str, Series]:
        """Return an empty mapping: what others log by layer has no common name."""
        return {}

    @property
    def why_not_falling(self) -> str:
        """Why the loss of this training need not fall, judged by the other names in the log; "" if it should."""
        return next((why for pattern, why in NOT_FALLING if any(map(pattern.search, self.others))), "")

    @property
    def losses(self) -> Series:
        """The training's loss; empty if it was not logged."""
        return self.scalars.get(TRAIN_LOSS, Series())

    @property
    def every(self) -> int | None:
        """Number of steps, epochs or rows from one loss to the next, as the median; None with fewer than two."""
        steps = np.asarray(self.losses.steps)
        return int(np.median(np.diff(steps))) // self.steps_per_unit if len(steps) > 1 else None

    def count_epochs(self) -> ForeignLog:
        """Return the log with its steps taken for epochs."""
        if self.unit == UNITS[EPOCHS]:
            return self
        scalars = {
            name: Series([step * STEPS_OF_EPOCH for step in series.steps], [*series.values])
            for name, series in self.scalars.items()
        }
        return replace(self, scalars=scalars, unit=UNITS[EPOCHS], steps_per_unit=STEPS_OF_EPOCH)


def make_log(
    path: Path,
    format: LogFormat,
    columns: Columns,
    axis: str | None = None,
    *,
    notes: Sequence[str] = (),
    parameters: Mapping[str, Any] | None = None,
) -> ForeignLog:
    """Return the log of some columns.

    Args:
        path: What was read.
        format: Its kind.
        columns: All that was read.
        axis: One of `columns.AXES`; None for the best that the loss has.
        notes: What could not be read, in sentences.
        parameters: Settings of the training that the log contains.
    """
    chosen = columns.choose()
    if axis is None:
        leading = chosen.get(TRAIN_LOSS) or max(chosen.values(), key=lambda name: len(columns.found[name]), default="")
        axis = columns.found[leading].axis() if leading else STEPS
    scale = STEPS_OF_EPOCH if axis == EPOCHS else 1
    scalars = {ours: columns.found[theirs].on(axis, scale) for ours, theirs in chosen.items()}
    for name in (of_stage(stage, ACCURACY) for stage in STAGES):
        if name in scalars:
            scalars[name] = _as_share(scalars[name])
    unread = [name for name in columns.found if name not in chosen.values()]
    return ForeignLog(
        path=path,
        format=format,
        scalars=scalars,
        read_as=chosen,
        others=(*unread, *(name for name in columns.others if not is_clock(name))),
        unit=UNITS[axis],
        steps_per_unit=scale,
        num_rows=columns.num_rows,
        info={"training": {"client": format.client}, "parameters": dict(parameters or {})},
        notes=tuple(notes),
    )


def _as_share(series: Series) -> Series:
    values = np.asarray(series.values)
    finite = values[np.isfinite(values)]
    return Series(series.steps, [*(values / 100)]) if len(finite) and finite.max() > PERCENT else series
