"""Weak signs alarm together, where little is learned."""

from __future__ import annotations

import numpy as np
import pytest
from observed import observed

from stabletrain.diagnosis.causes import alarm_together
from stabletrain.diagnosis.progress import progress_of
from stabletrain.vocabulary.finding import Finding


def note(kind, severity="info", last_step=99, **evidence):
    return Finding(kind, severity, None, 0, last_step, evidence)


def learned(share, num_steps=100):
    losses = np.concatenate([np.linspace(2.3, 2.3 * (1 - share), 60), np.full(40, 2.3 * (1 - share))])
    return progress_of(observed(losses=losses, num_steps=num_steps, prior_loss=2.3))


@pytest.mark.parametrize(
    ("kinds", "progress", "expected"),
    [
        (["dead_units", "lr_too_high"], learned(0.6), {"warning"}),
        (["dead_units", "lr_too_high"], learned(0.9), {"info"}),
        (["dead_units", "lr_too_high"], learned(0.3, 1000), {"info"}),  # a tenth of the plan
        (["dead_units", "dead_units"], learned(0.6), {"info"}),  # one sign in two layers
        (["dead_units", "clip_always"], learned(0.6), {"info"}),
        (["dead_units", "lr_too_high"], None, {"info"}),
    ],
)
def test_two_signs_alarm_where_the_training_lags(kinds, progress, expected):
    assert {f.severity for f in alarm_together([note(kind) for kind in kinds], progress)} == expected


def test_beside_an_alarm_notes_stay_notes():
    found = [note("nonfinite", "critical"), note("dead_units"), note("lr_too_high")]
    assert alarm_together(found, learned(0.6)) == found


@pytest.mark.parametrize(
    ("sign", "expected"),
    [
        (note("loss_spike"), "warning"),
        (note("loss_spike", recovered=True), "info"),  # the loss came back
        (note("lr_too_high", last_step=9), "info"),  # most was learned after it
        (note("lr_too_high"), "warning"),
        (note("saturation", last_step=9), "warning"),
    ],
)
def test_what_is_over_is_no_sign(sign, expected):
    found = alarm_together([note("oscillation"), sign], learned(0.6))
    assert {f.severity for f in found} == {expected}
