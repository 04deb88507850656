"""The robust score against a slow twin written with NumPy, and what may enter a window."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stabletrain.diagnosis.observations import Observations
from stabletrain.diagnosis.rules.depth import find_norm_explosion
from stabletrain.diagnosis.windows import MIN_SIGMA, WARMUP, WINDOW, robust_z_scores


def slow_scores(values, window, warmup):
    past: list[float] = []
    scores = []
    for value in values:
        if len(past) < warmup:
            scores.append(None)
            past.append(value)
            continue
        recent = np.array(past[-window:])
        sigma = max(1.4826 * float(np.median(np.abs(recent - np.median(recent)))), 0.05)
        scores.append((value - float(np.median(recent))) / sigma)
        if scores[-1] <= 6:
            past.append(value)
    return scores


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(-20, 20), max_size=60), st.integers(1, 20), st.integers(1, 20))
def test_scores_equal_the_slow_twin(values, window, warmup):
    warmup = min(window, warmup)
    assert robust_z_scores(values, window, warmup) == pytest.approx(slow_scores(values, window, warmup), nan_ok=False)


def test_scores_of_known_numbers():
    values = [0.0] * 32 + [1.0] * 32 + [2.0]
    assert robust_z_scores(values)[-1] == pytest.approx(1.5 / (1.4826 * 0.5))
    assert robust_z_scores([0.0] * 64 + [0.3])[-1] == pytest.approx(0.3 / MIN_SIGMA)
    assert robust_z_scores([0.0] * 64 + [-3.0])[-1] == pytest.approx(-60.0)


def test_the_window_and_the_warmup_are_those_of_the_source():
    assert (WINDOW, WARMUP) == (128, 64)
    scores = robust_z_scores([0.0] * 65)
    assert scores[:64] == [None] * 64
    assert scores[64] == 0.0


def test_the_window_forgets():
    up_in_small_steps = [0.25 * (i // WINDOW) for i in range(6 * WINDOW)]  # five deviations each: it becomes usual
    scores = [z for z in robust_z_scores(up_in_small_steps) if z is not None]
    assert max(scores) == pytest.approx(5.0)
    assert scores[-1] == 0.0


def find(norms) -> list[tuple[int, int]]:
    return [(f.first_step, f.last_step) for f in find_norm_explosion(Observations(norms=norms))]


def test_an_explosion_is_dated_by_its_steps():
    norms = {10 * i: 1.0 for i in range(100)} | {1000 + 10 * i: 1e3 for i in range(7)} | {1070: 1.0}
    assert find(norms) == [(1000, 1060)]
    assert find(dict(reversed(norms.items()))) == [(1000, 1060)]  # whatever the order of the mapping


@pytest.mark.parametrize(("factor", "fires"), [(1.9, False), (2.1, True)])
def test_the_threshold_over_a_quiet_window(factor, fires):
    assert math.isclose(6 * MIN_SIGMA, math.log10(2), rel_tol=0.01)  # six floors of 0.05 decades: twice the usual
    assert bool(find(dict(enumerate([1.0] * 80 + [factor] * 5)))) is fires


@pytest.mark.parametrize(("num_in_a_row", "fires"), [(4, False), (5, True)])
def test_one_outlier_less_is_no_explosion(num_in_a_row, fires):
    assert bool(find(dict(enumerate([1.0] * 80 + [100.0] * num_in_a_row + [1.0] * 20)))) is fires


@pytest.mark.parametrize("seed", range(5))
def test_the_noise_of_training_is_no_explosion(seed):
    generator = np.random.default_rng(seed)
    heavy = 10 ** (0.15 * generator.standard_t(3, size=2000))  # heavier tails than a normal distribution
    falling = heavy * np.geomspace(1, 1e-3, 2000)
    assert find(dict(enumerate(heavy.tolist()))) == []
    assert find(dict(enumerate(falling.tolist()))) == []


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_never_enters_a_window(bad):
    early = [1.0, bad] * 70 + [1e4] * 5
    assert find(dict(enumerate(early))) == [(140, 144)]
    assert find(dict(enumerate([1.0] * 100 + [bad] * 10))) == []


def test_a_norm_of_zero_is_a_small_one():
    assert find(dict(enumerate([1.0] * 100 + [0.0] * 10))) == []
    assert find(dict(enumerate([0.0] * 100 + [1.0] * 5))) == [(100, 104)]
    assert find({}) == []
