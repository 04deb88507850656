from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stabletrain.errors import RequestError
from stabletrain.training.schedule import Constant, Plateau, StepDecay, WarmupCosine, warmup_cosine_factor


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, 0.1), (4, 0.5), (9, 1.0), (10, 1.0), (55, 0.5 * (1 + math.cos(math.pi * 0.5))), (100, 0.0), (500, 0.0)],
)
def test_warmup_cosine_values(step, expected):
    assert warmup_cosine_factor(step, num_warmup_steps=10, total_steps=100) == pytest.approx(expected, abs=1e-12)


@given(st.integers(0, 400), st.integers(0, 50), st.integers(1, 300), st.floats(0, 1))
def test_warmup_cosine_stays_between_its_ends(step, warmup, total, low):
    factor = warmup_cosine_factor(step, warmup, total, low)
    assert 0 < factor <= 1 + 1e-12 if step < warmup else low - 1e-12 <= factor <= 1 + 1e-12


def rates(schedule, num_steps: int, total: int = 20) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    scheduler = schedule.attach(optimizer, total).get("lr_scheduler", {}).get("scheduler")
    seen = []
    for _ in range(num_steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if scheduler is not None:
            scheduler.step(1.0) if isinstance(schedule, Plateau) else scheduler.step()
    return seen


def test_rates_of_each_schedule():
    assert rates(Constant(), 5) == [0.5] * 5
    assert rates(StepDecay(every_epochs=2, factor=0.1), 5) == pytest.approx([0.5, 0.5, 0.05, 0.05, 0.005])
    assert rates(WarmupCosine(num_warmup_steps=2), 3) == pytest.approx([0.25, 0.5, 0.5])
    assert rates(Plateau(patience_epochs=1, factor=0.1), 4) == pytest.approx([0.5, 0.5, 0.5, 0.05])


@pytest.mark.parametrize(
    "make",
    [
        lambda: WarmupCosine(num_warmup_steps=-1),
        lambda: WarmupCosine(min_factor=2),
        lambda: StepDecay(every_epochs=0),
        lambda: StepDecay(factor=0),
        lambda: Plateau(factor=1),
        lambda: Plateau(patience_epochs=-1),
    ],
)
def test_out_of_range(make):
    with pytest.raises(RequestError):
        make()
