from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stabletrain.errors import RequestError
from stabletrain.training.optimization.schedule import (
    Constant,
    OneCycle,
    Plateau,
    StepDecay,
    TorchSchedule,
    WarmupCosine,
    WarmupStableDecay,
    warmup_cosine_factor,
    warmup_stable_decay_factor,
)


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


@pytest.mark.parametrize(
    ("step", "expected"), [(0, 0.1), (9, 1.0), (10, 1.0), (89, 1.0), (90, 1.0), (95, 0.55), (100, 0.1), (300, 0.1)]
)
def test_warmup_stable_decay_values(step, expected):
    factor = warmup_stable_decay_factor(step, num_warmup_steps=10, total_steps=100, decay_fraction=0.1, min_factor=0.1)
    assert factor == pytest.approx(expected)


@given(st.integers(1, 60), st.integers(0, 40))
def test_one_cycle_climbs_to_the_base_rate_and_falls_almost_to_nothing(total, warmup):
    schedule = OneCycle(num_warmup_steps=warmup or None)
    seen = rates(schedule, total, total)
    assert seen[0] == pytest.approx(0.02)
    assert max(seen) <= 0.5 + 1e-9
    peak = seen.index(max(seen))
    assert seen[:peak] == sorted(seen[:peak])
    assert seen[peak:] == sorted(seen[peak:], reverse=True)
    if total > 20 and not warmup:
        assert seen[-1] < 0.05


def test_one_cycle_moves_the_momentum_of_optimizers_that_have_one():
    weight = torch.nn.Parameter(torch.zeros(1))
    for optimizer, key in (
        (torch.optim.SGD([weight], 0.1, momentum=0.9), "momentum"),
        (torch.optim.Adam([weight]), "betas"),
    ):
        scheduler = OneCycle().attach(optimizer, 20)["lr_scheduler"]["scheduler"]
        first = optimizer.param_groups[0][key]
        for _ in range(5):
            optimizer.step()
            scheduler.step()
        assert optimizer.param_groups[0][key] != first
    plain = torch.optim.SGD([weight], 0.1)
    OneCycle().attach(plain, 20)
    assert plain.param_groups[0]["momentum"] == 0


def test_a_constant_rate_warms_up_if_asked_for():
    assert rates(Constant(num_warmup_steps=4), 6) == pytest.approx([0.125, 0.25, 0.375, 0.5, 0.5, 0.5])


def test_a_schedule_of_torchs_is_asked_every_epoch():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    made = TorchSchedule(lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.5)).attach(optimizer, 10)
    assert made["lr_scheduler"]["interval"] == "epoch"
    assert made["lr_scheduler"]["scheduler"].optimizer is optimizer


@pytest.mark.parametrize("schedule", [WarmupCosine(), WarmupStableDecay(), OneCycle()])
def test_schedules_that_need_an_end_say_so(schedule):
    with pytest.raises(RequestError) as caught:
        rates(schedule, 1, -1)
    assert caught.value.key == "trainer.max_epochs"


@pytest.mark.parametrize(
    "make",
    [
        lambda: Constant(num_warmup_steps=-1),
        lambda: WarmupStableDecay(decay_fraction=0.0),
        lambda: WarmupStableDecay(min_factor=-0.1),
        lambda: OneCycle(num_warmup_steps=0),
        lambda: OneCycle(start_factor=0.0),
        lambda: OneCycle(end_factor=2.0),
    ],
)
def test_new_schedules_out_of_range(make):
    with pytest.raises(RequestError):
        make()
