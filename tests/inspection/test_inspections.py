"""All inspectors together."""

from __future__ import annotations

import pytest
from torch import nn

from stabletrain.inspection.inspections import Inspections
from stabletrain.inspection.inspector import Inspector, StepView


class Expects(Inspector):
    expected: list[int]

    def expect(self, step):
        self.expected = [*getattr(self, "expected", []), step]

    def inspect(self, view):
        return ()


@pytest.mark.parametrize("compiled_at", [None, 5])
def test_a_compiled_model_is_not_hooked_and_not_looked_for_on_every_step(compiled_at, monkeypatch):
    model, calls = nn.Linear(2, 2), []

    def is_compiled(_):
        calls.append(1)
        return compiled_at is not None and len(calls) > compiled_at

    monkeypatch.setattr("stabletrain.inspection.inspections.is_compiled_in_place", is_compiled)
    inspections = Inspections(model, [Expects])
    for step in range(300):
        inspections.step(StepView(step, model, 0.0))
    assert len(calls) == 10 + 3  # the first ten steps, and 100, 200 and 300
    expected = inspections._inspectors[0].expected  # pyright: ignore[reportAttributeAccessIssue]
    assert expected == [*range(301 if compiled_at is None else compiled_at)]
