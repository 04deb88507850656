"""Training that broke within one step is told to go back, and a training that diverges is not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from observed import observed, series, table

from stabletrain.diagnosis.breaks import find_break
from stabletrain.diagnosis.doctor import diagnose
from stabletrain.diagnosis.observations import Observations
from stabletrain.diagnosis.plan import BROKE_ON
from stabletrain.vocabulary import metric_names as names

NUM_STEPS, BREAK = 100, 50


def run(losses=None, norms=None, rates=(1e-3,), update=1e-3) -> Observations:
    """A loss that falls from 2.3 to 1 and leaps to 50 after step 50, with gradients as usual until then."""
    if losses is None:
        losses = np.concatenate([np.geomspace(2.3, 1.0, BREAK + 1), np.full(NUM_STEPS - BREAK - 1, 50.0)])
    if norms is None:
        norms = np.where(np.arange(NUM_STEPS) <= BREAK, 1.0, 30.0)
    base = observed(losses=losses, num_steps=NUM_STEPS, prior_loss=2.3)
    steps = np.arange(0, NUM_STEPS, 10)
    rms = {
        "update": table(np.full((10, 3), update), steps),
        "weight": table(np.full((10, 3), 1.0), steps),
        "gradient": table(np.full((10, 3), 0.1), steps),
    }
    rates = series(rates, [0, BREAK + 1][: len(rates)])
    scalars = {**base.scalars, names.NORM_TOTAL: series(norms), names.LR: rates}
    return Observations(rms=rms, scalars=scalars, about=base.about)


def test_a_leap_within_one_step_is_a_break():
    assert find_break(run()) == BREAK
    first = diagnose(run())[0]
    assert first.evidence[BROKE_ON] == BREAK
    assert "Go back to a checkpoint from before that step" in first.advice
    assert "lr" not in first.advice.partition("In code")[2]
    assert first.overrides == []


GROWING = np.where(np.arange(NUM_STEPS) < BREAK - 5, 1.0, 2.0 ** (np.arange(NUM_STEPS) - BREAK + 5))
NEVER_LEARNED = np.where(np.arange(NUM_STEPS) <= BREAK, 2.3, 50.0)
CAME_BACK = np.where(np.arange(NUM_STEPS) == BREAK, 50.0, np.geomspace(2.3, 1.0, NUM_STEPS))
SLOWLY = np.where(np.arange(NUM_STEPS) <= BREAK, 1.0, 1.0 * 1.5 ** (np.arange(NUM_STEPS) - BREAK))


@pytest.mark.parametrize(
    "observations",
    [
        run(norms=GROWING),
        run(losses=NEVER_LEARNED),
        run(losses=CAME_BACK),
        run(losses=SLOWLY),
        run(rates=(1e-3, 1e-1)),
        run(update=0.2),
        replace(run(), rms={}),
        Observations(),
    ],
    ids=[
        "gradient grew",
        "nothing learned",
        "came back",
        "grew over steps",
        "rate rose",
        "large steps",
        "no updates",
        "",
    ],
)
def test_what_is_no_break(observations):
    assert find_break(observations) is None
