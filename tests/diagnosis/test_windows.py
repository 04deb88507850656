"""Outliers against a slow twin written with NumPy, what may enter a window, and stretches that last."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from observed import observed

from stabletrain.diagnosis.rules.depth import NORM_WARMUP, find_norm_explosion
from stabletrain.diagnosis.windows import (
    FLOOR,
    MIN_SIGMA,
    WARMUP,
    WINDOW,
    decades,
    find_outliers,
    first_run,
    last_stretch,
    stretch,
)


def slow_outliers(values, window, warmup):
    past: list[float] = []
    flags = []
    for value in values:
        recent = np.array(past[-window:])
        flags.append(False)
        if len(past) >= warmup:
            sigma = max(1.4826 * float(np.median(np.abs(recent - np.median(recent)))), 0.05)
            flags[-1] = (value - float(np.median(recent))) / sigma > 6
        if not flags[-1]:
            past.append(value)
    return flags


@settings(max_examples=60)
@given(st.lists(st.floats(-20, 20), max_size=60), st.integers(1, 20), st.integers(1, 20))
def test_outliers_equal_the_slow_twin(values, window, warmup):
    warmup = min(window, warmup)
    assert find_outliers(values, window, warmup).tolist() == slow_outliers(values, window, warmup)


def test_the_window_and_the_warmup_are_those_of_the_source():
    assert (WINDOW, WARMUP) == (128, 64)
    assert find_outliers([0.0] * 63 + [9.0]).tolist() == [False] * 64
    assert find_outliers([0.0] * 64 + [9.0])[-1]


def test_the_window_forgets():
    up_in_small_steps = [0.25 * (i // WINDOW) for i in range(6 * WINDOW)]  # five deviations each: it becomes usual
    assert not find_outliers(up_in_small_steps).any()


def find(norms, start=0) -> list[tuple[int, int, str]]:
    found = find_norm_explosion(observed(scalars={"gradient/norm/total": norms}))
    return [(f.first_step, f.last_step, f.severity) for f in found]


def test_an_explosion_is_dated_by_its_steps_and_over_when_the_norm_came_back():
    assert find([1.0] * 100 + [1e3] * 7) == [(100, 106, "warning")]
    assert find([1.0] * 100 + [1e3] * 7 + [1.0] * 5) == [(100, 106, "info")]


@pytest.mark.parametrize(("factor", "fires"), [(1.9, False), (2.1, True)])
def test_the_threshold_over_a_quiet_window(factor, fires):
    assert math.isclose(6 * MIN_SIGMA, math.log10(2), rel_tol=0.01)  # six floors of 0.05 decades: twice the usual
    assert bool(find([1.0] * 80 + [factor] * 5)) is fires


@pytest.mark.parametrize(("num_in_a_row", "fires"), [(4, False), (5, True)])
def test_one_outlier_less_is_no_explosion(num_in_a_row, fires):
    assert bool(find([1.0] * 80 + [100.0] * num_in_a_row + [1.0] * 20)) is fires


@pytest.mark.parametrize("seed", range(5))
def test_the_noise_of_training_is_no_explosion(seed):
    generator = np.random.default_rng(seed)
    heavy = 10 ** (0.15 * generator.standard_t(3, size=2000))  # heavier tails than a normal distribution
    assert find(heavy) == []
    assert find(heavy * np.geomspace(1, 1e-3, 2000)) == []


def test_a_norm_of_zero_is_a_small_one():
    assert decades(np.array([0.0, 1.0, math.nan])).tolist()[:2] == [FLOOR, 0.0]
    assert find([1.0] * 100 + [0.0] * 10) == []
    assert find([0.0] * NORM_WARMUP + [1.0] * 5) == [(NORM_WARMUP, NORM_WARMUP + 4, "warning")]
    assert find([]) == []


@pytest.mark.parametrize(
    ("flags", "start"),
    [
        ("1111", 0),
        ("0111", 1),
        ("1110", None),  # two of the last three are not four fifths
        ("1100111", 4),  # two in a row without it end a stretch
        ("1101111", 0),
        ("11", None),
        ("0000", None),
    ],
)
def test_a_stretch_that_lasts(flags, start):
    assert last_stretch(np.array([flag == "1" for flag in flags]), 0.8, 3, 2) == start


def test_the_first_run():
    assert first_run(np.array([1, 1, 0, 1, 1, 1], bool), 3) == 3
    assert first_run(np.array([1, 1, 0, 1, 1], bool), 3) is None


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([1] * 20, (0, 19)),
        ([0] * 10 + [1] * 10, (10, 19)),  # holds now
        ([1] * 8 + [0] * 12, (0, 7)),  # held for long
        ([0, 0] + [1, 1, 0, 1, 1, 1] + [0] * 12, (2, 7)),  # a miss ends nothing
        ([1] * 2 + [0] * 18, None),  # for two looks
        ([0] * 20, None),
    ],
)
def test_a_stretch_holds_now_or_held_for_long(flags, expected):
    assert stretch(np.arange(20), np.array(flags, bool), 0.8, 3, 3) == expected


def test_how_long_is_counted_in_steps():
    steps = np.array([*range(10), *range(20, 200, 10)])  # the first looks are close to each other
    flags = np.array([1] * 10 + [0] * 18, bool)
    assert stretch(steps, flags, 0.8, 3, 3) is None
    assert stretch(np.arange(28), flags, 0.8, 3, 3) == (0, 9)
