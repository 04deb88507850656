"""When a run is diagnosed while it goes on, and which findings open and close."""

from __future__ import annotations

import pytest

from stabletrain.diagnosis.openings import MIN_STEPS, PAUSE_FACTOR, Openings
from stabletrain.vocabulary.finding import Finding
from stabletrain.vocabulary.kinds import OSCILLATION, SATURATION


def finding(kind=OSCILLATION, layer=None, severity="warning") -> Finding:
    return Finding(kind.name, severity, layer, 0, 5, {}, "Do this.")


def test_a_finding_stays_open_from_the_diagnosis_that_found_it():
    openings = Openings()
    assert openings.opened(finding()) is None
    assert openings.changes(10, [finding(), finding(SATURATION, "L03.3", "info")]) == [
        "step 10: warning oscillation. Do this."
    ]
    assert openings.changes(20, [finding()]) == []
    assert openings.opened(finding()) == 10
    assert openings.opened(finding(SATURATION, "L03.3")) is None  # `info` opens nothing
    assert openings.changes(30, [finding(SATURATION, "L03.3")]) == [
        "step 30: warning saturation in L03.3. Do this.",
        "step 30: oscillation is over",
    ]
    assert openings.opened(finding()) is None
    assert openings.changes(40, [finding()])[0].startswith("step 40: warning oscillation")
    assert openings.opened(finding()) == 40  # it opened again


@pytest.mark.parametrize(("by_steps", "steps"), [(True, [10, 22, 37, 56, 80]), (False, [10])])
def test_a_diagnosis_is_due_after_a_pause_or_with_a_quarter_more_steps(by_steps, steps):
    now = [0.0]
    openings, due = Openings(by_steps=by_steps, clock=lambda: now[0]), []
    for step in range(100):
        if openings.is_due(step):
            due.append(step)
            openings.note_cost(step, 1.0)
    assert due == steps
    now[0] = PAUSE_FACTOR - 1
    assert not openings.is_due(101)
    now[0] = PAUSE_FACTOR
    assert openings.is_due(101)
    assert not openings.is_due(MIN_STEPS - 1)
