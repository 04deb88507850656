"""On which steps a plain loop is measured, by the size of its model."""

from __future__ import annotations

from torch import nn

from stabletrain.integrations.plain_loop.schedule import Schedule


def test_deep_models_are_measured_rarely():
    shallow = Schedule(nn.Sequential(*[nn.Linear(2, 2) for _ in range(60)]))
    deep = Schedule(nn.Sequential(*[nn.Linear(2, 2) for _ in range(70)]))
    assert [step for step in range(50) if shallow.is_measured(step)] == [*range(10), 19, 29, 39, 49]
    assert [step for step in range(301) if deep.is_measured(step)] == [0, 1, 2, 3, 149, 299]


def test_time_is_followed_less_often_later():
    schedule = Schedule(nn.RNN(2, 3))
    found = [step for step in range(200) if schedule.follows_time(step)]
    assert found == [0, 1, 3, 9, 19, 29, 49, 99, 149, 199]
