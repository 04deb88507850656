"""A training ends at a NaN that nothing explains: what is measured afterwards is held against no setting."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from observed import observed, series, table

from stabletrain.diagnosis.broken_off import until_broken_off
from stabletrain.diagnosis.doctor import diagnose
from stabletrain.diagnosis.observations import Observations
from stabletrain.vocabulary import metric_names as names
from stabletrain.vocabulary.kinds import GRADIENTS_ACCUMULATE, NONFINITE
from stabletrain.vocabulary.notice import CERTAIN, CERTAINTY, Notice
from stabletrain.vocabulary.origins import INVALID, ORIGIN, OVERFLOW
from stabletrain.vocabulary.signals import GRADIENT

NUM_STEPS = 100


def broken(step: int, origin: str | None, *, recovers: bool = False, ratio: float = 1e-3) -> Observations:
    """A training whose loss stays at chance level and whose weights stand still, with a NaN from `step` on."""
    steps = np.arange(NUM_STEPS)
    losses = np.full(NUM_STEPS, 2.3) if recovers else np.full(step, 2.3)
    update = np.full((NUM_STEPS, 2), ratio)
    update[step : step if recovers else None] = 0.0
    seen = observed(
        np.full((NUM_STEPS, 2), 0.1), losses=losses if step or recovers else None, num_steps=NUM_STEPS, prior_loss=2.3,
        update=update, weight=np.ones((NUM_STEPS, 2)),
    )  # fmt: skip
    bad = np.zeros((NUM_STEPS, 2))
    bad[step : step + 1 if recovers else None] = 4
    last = step if recovers else NUM_STEPS - 1
    notice = Notice(NONFINITE.name, step, last, None, {ORIGIN: origin})
    return replace(seen, nonfinite={GRADIENT: table(bad, steps)}, notices=(notice,))


def alarms(observations: Observations) -> list[str]:
    return [finding.kind for finding in diagnose(observations) if finding.alarms]


@pytest.mark.parametrize("step", [0, 1, 5])
def test_a_nan_with_an_origin_of_its_own_is_the_only_alarm(step):
    assert alarms(broken(step, INVALID)) == ["nonfinite"]


def test_what_was_wrong_before_the_nan_is_still_found():
    assert alarms(broken(90, INVALID, ratio=1e-6)) == ["nonfinite", "lr_too_low"]
    assert alarms(broken(90, INVALID)) == ["nonfinite"]


def test_a_skipped_step_ends_nothing():
    seen = broken(5, INVALID, recovers=True)
    assert until_broken_off(seen, diagnose(seen)) is seen
    assert alarms(seen) == ["no_progress"]


@pytest.mark.parametrize("origin", [OVERFLOW, None])
def test_a_nan_that_a_rate_may_explain_ends_nothing(origin):
    seen = broken(5, origin)
    assert until_broken_off(seen, diagnose(seen)) is seen


def test_what_was_noticed_later_stays():
    later = Notice(GRADIENTS_ACCUMULATE.name, 7, 9, None, {CERTAINTY: CERTAIN})
    seen = broken(5, INVALID)
    assert "gradients_accumulate" in alarms(replace(seen, notices=(*seen.notices, later)))


def test_that_the_training_broke_off_is_still_known():
    seen = broken(5, INVALID)
    counts = series([1.0, 2.0, 3.0], [5, 6, 7])
    seen = replace(seen, scalars={**seen.scalars, names.TRAIN_NONFINITE: counts})
    kept = until_broken_off(seen, diagnose(seen))
    assert kept.scalars[names.TRAIN_NONFINITE].values.tolist() == [1.0, 2.0, 3.0]
    assert kept.scalars[names.TRAIN_LOSS].steps.tolist() == [0, 1, 2, 3, 4]
