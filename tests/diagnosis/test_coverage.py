"""What was not seen of a run, and what the verdict is worth without it."""

from __future__ import annotations

import numpy as np
import pytest

from stabletrain.diagnosis.coverage import are_cleared, find_unseen, is_unknown, supported
from stabletrain.diagnosis.observations import Observations, Series, Table
from stabletrain.vocabulary import metric_names as names
from stabletrain.vocabulary.finding import Finding
from stabletrain.vocabulary.kinds import KINDS, LR_TOO_LOW, NO_PROGRESS, SATURATION
from stabletrain.vocabulary.signals import DELTA, GRADIENT, UPDATE

STEPS = np.arange(8)


def seen(gradient=1.0, delta=1.0, losses=8, nonfinite=0, updates=True) -> Observations:
    """Return eight steps of one layer, with as many losses as asked for."""

    def table(value: float) -> Table:
        return Table(STEPS, ("L00.weight",), np.full((8, 1), value))

    rms = {GRADIENT: table(gradient), DELTA: table(delta)} | ({UPDATE: table(1e-3)} if updates else {})
    scalars = {names.TRAIN_LOSS: Series(STEPS[:losses], np.ones(losses))} if losses else {}
    if nonfinite:
        scalars[names.TRAIN_NONFINITE] = Series(STEPS[-1:], np.array([float(nonfinite)]))
    return Observations(rms=rms, nonfinite={}, units={}, time={}, scalars=scalars)


@pytest.mark.parametrize(
    ("observations", "unseen"),
    [
        (seen(), ()),
        (seen(losses=0), ("loss",)),
        (seen(losses=4), ("loss",)),
        (seen(losses=5), ()),
        (seen(losses=0, nonfinite=8), ()),  # they are known not to be finite
        (seen(losses=0, nonfinite=1), ("loss",)),
        (seen(gradient=0.0), ("gradient",)),
        (seen(gradient=0.0, delta=0.0), ()),  # nothing arrived anywhere: that is what there was to see
        (seen(updates=False), ("update",)),
        (Observations(rms={}, nonfinite={}, units={}, time={}, scalars={}), ("loss", "gradient", "update")),
    ],
)
def test_what_was_not_seen(observations, unseen):
    assert find_unseen(observations) == unseen
    assert is_unknown(unseen) == bool({"loss", "gradient"} & {*unseen})


def test_gradients_are_cleared_only_if_all_of_them_are_zero():
    assert are_cleared(seen(gradient=0.0))
    assert not are_cleared(seen(gradient=1e-30))
    assert not are_cleared(seen(gradient=np.nan))


def test_without_gradients_a_run_is_not_said_to_be_slow():
    found = [Finding(kind.name, "warning", None, 0, 7, {}, "") for kind in (LR_TOO_LOW, NO_PROGRESS, SATURATION)]
    assert [f.kind for f in supported(found, ("gradient",))] == [SATURATION.name]
    assert supported(found, ("loss", "update")) == found
    assert {f.kind for f in found} <= {*KINDS}
