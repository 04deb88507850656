"""What a replay found becomes part of the finding: beside what was noticed, or in place of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from observed import observed

from stabletrain.diagnosis.doctor import diagnose
from stabletrain.diagnosis.observations import Observations
from stabletrain.diagnosis.offender import with_offender
from stabletrain.vocabulary import origins
from stabletrain.vocabulary.kinds import NONFINITE
from stabletrain.vocabulary.notice import Notice

STEP = 7
OFFENDER = {
    "step": STEP, "phase": "data", "layer": None, "tensor": "batch[0]", "clean": None, "num_nonfinite": 3, "size": 12,
    "samples": [33], "samples_are": "dataset", "origin": "input", "operation": "AddmmBackward0", "module": "0",
    "line": "net.py:1", "why": "a tensor that it was given is not finite",
}  # fmt: skip
NOTHING = {"step": STEP, "phase": None, "samples": [], "samples_are": "dataset"}


def seen(*evidence, num_losses=STEP) -> Observations:
    notices = tuple(Notice(NONFINITE.name, STEP, STEP, None, x) for x in evidence)
    return replace(observed(losses=np.full(num_losses, 1.0)), notices=notices)


def finding(observations):
    (found,) = (f for f in diagnose(observations) if f.kind == NONFINITE.name)
    return found


def test_without_a_replay_nothing_changes():
    observations = seen()
    assert with_offender(observations, {}) is observations


def test_the_samples_are_those_of_the_training_set():
    noticed = {origins.ORIGIN: "input", origins.MODULE: "body.0", origins.SAMPLES: [1], origins.REPRODUCIBLE: True}
    found = finding(with_offender(seen(noticed), OFFENDER))
    assert (found.evidence["samples"], found.evidence["samples_are"]) == ([33], "dataset")
    assert found.evidence["module"] == "body.0"  # as noticed in the step itself
    assert found.evidence["bundle"] == "offender/bundle.pt"
    assert "(samples 33 of the training set)" in found.advice


def test_an_origin_that_was_not_noticed_is_the_replays():
    noticed = {origins.ORIGIN: None, origins.WHY: "the loss is not finite", origins.OPERATION: None}
    found = finding(with_offender(seen(noticed), OFFENDER))
    assert (found.evidence["origin"], found.evidence["why"]) == ("input", OFFENDER["why"])
    assert found.evidence["reproducible"] is True


def test_a_replay_of_a_run_without_an_inspection_is_a_finding_with_its_origin():
    found = finding(with_offender(seen(), OFFENDER))
    assert (found.first_step, found.severity, found.evidence["origin"]) == (STEP, "critical", "input")
    assert "In code: keep" in found.advice


@pytest.mark.parametrize("origin", ["invalid_operation", None])
def test_a_replay_that_is_finite_says_that_it_did_not_come_again(origin):
    found = finding(with_offender(seen({origins.ORIGIN: origin, origins.SAMPLES: [1]}), NOTHING))
    assert (found.evidence["origin"], found.evidence["reproducible"]) == (origin, False)
    assert found.evidence["samples"] == [1]
    assert "samples_are" not in found.evidence


def test_a_replay_of_an_earlier_part_of_a_resumed_run_is_left_alone():
    observations = seen(num_losses=30)
    assert with_offender(observations, OFFENDER) is observations
