"""Vanishing and exploding over depth: properties, who is named, and when it harms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from observed import observed

from stabletrain.diagnosis.doctor import diagnose
from stabletrain.diagnosis.rules.depth import depth_decades, find_exploding, find_vanishing

RMS = st.floats(1e-20, 1e20)
GUESSING, LEARNING = [2.3] * 100, np.geomspace(2.3, 0.1, 100)


def gap(*rms: float) -> float:
    return float(depth_decades(np.array([rms]))[0])


@given(RMS, RMS, RMS, RMS)
def test_of_four_layers_the_first_and_the_last_count(first, second, third, last):
    assert gap(first, second, third, last) == pytest.approx(math.log10(first) - math.log10(last), abs=1e-9)


@given(RMS, RMS, st.floats(1e-5, 1e5))
def test_the_scale_of_the_whole_gradient_does_not_matter(first, last, scale):
    assert gap(first, last) == pytest.approx(gap(first * scale, last * scale), abs=1e-9)


@given(RMS, RMS)
def test_turned_round_vanishing_is_exploding(first, last):
    vanishing, exploding = find_vanishing(observed([first, last])), find_exploding(observed([last, first]))
    assert [f.evidence["log10_ratio_first_to_last"] for f in vanishing] == [
        -f.evidence["log10_ratio_first_to_last"] for f in exploding
    ]
    assert [f.severity for f in vanishing] == [f.severity for f in exploding]


@pytest.mark.parametrize(
    ("rms", "decades"),
    [
        ((1e-9, 1.0), -9.0),
        ((0.0, 1.0), -45.0),
        ((1.0, 0.0), math.nan),  # what does not begin has not grown
        ((math.nan, 1e-4, 1.0), -4.0),
        ((0.0, 0.0), math.nan),
        ((math.nan, 1.0), math.nan),
        ((1.0,), math.nan),
        ((1e-9, 1e-9, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0), -9.0),  # a quarter of eight are two
    ],
)
def test_decades_of_corners(rms, decades):
    assert gap(*rms) == pytest.approx(decades, nan_ok=True)


@pytest.mark.parametrize(
    ("rms", "expected", "severity"),
    [
        ((1e-1, 1e-1), None, None),
        ((1.1e-4, 1e-1), None, None),
        ((0.9e-4, 1e-1), "vanishing", "warning"),
        ((1e-8, 1e-1), "vanishing", "critical"),
        ((1e3, 1.1), None, None),
        ((1e3, 0.9), "exploding", "warning"),
        ((1e3, 1e-4), "exploding", "critical"),
        ((1e-9, 1e-8), None, None),  # small everywhere: converged, not vanishing
    ],
)
def test_thresholds(rms, expected, severity):
    found = diagnose(observed(rms))
    assert [(f.kind, f.severity, f.layer) for f in found] == ([(expected, severity, "L00.w")] if expected else [])


def test_it_must_last():
    bad, good = [1e-9, 1.0], [1.0, 1.0]
    assert find_vanishing(observed([good] * 10 + [bad] * 20))[0].first_step == 10
    assert find_vanishing(observed([bad] * 7 + [good] * 3)) == []
    assert find_vanishing(observed([bad] * 2)) == []


def test_a_start_from_zero_is_no_vanishing_gradient():
    """A residual branch or a head that begins at zero passes nothing back on the first step only."""
    assert diagnose(observed([[0.0, 1.0]] + [[0.1, 1.0]] * 9)) == []


def test_a_network_that_learns_is_not_ill():
    rms = np.tile([1e-9, 1.0], (100, 1))
    assert [f.severity for f in find_vanishing(observed(rms, LEARNING, 100, 2.3))] == ["info"]
    assert [f.severity for f in find_vanishing(observed(rms, GUESSING, 100, 2.3))] == ["critical"]


def test_layers_that_adam_moves_get_more_time():
    rms, losses = np.tile([1e-9, 1.0], (8, 1)), GUESSING[:8]
    still = {"update": np.full((8, 2), 1e-9), "weight": np.full((8, 2), 0.1)}
    moving = {"update": np.full((8, 2), 1e-4), "weight": np.full((8, 2), 0.1)}
    assert find_vanishing(observed(rms, losses, 100, 2.3, **still))[0].severity == "critical"
    assert find_vanishing(observed(rms, losses, 100, 2.3, **moving))[0].severity == "info"


def test_deltas_tell_where_the_weights_gradients_do_not():
    flat, falling = np.tile([1e-2, 1e-2, 1e-2, 1e-2], (10, 1)), np.tile([1e-6, 1e-4, 1e-3, 1e-1], (10, 1))
    (found,) = find_vanishing(observed(flat, delta=falling))
    assert (found.evidence["signal"], found.evidence["log10_ratio_first_to_last"]) == ("delta", -5.0)
    assert find_vanishing(observed(flat, delta=flat)) == []
    assert find_exploding(observed(flat, delta=falling[:, ::-1]))[0].evidence["signal"] == "delta"
    assert find_vanishing(observed(flat, delta=falling[:, [0, 3]])) == []  # two outputs are no depth


def test_what_held_for_a_seventh_of_the_steps_still_counts():
    rms = np.concatenate([np.tile([1e-9, 1.0], (40, 1)), np.tile([0.1, 1.0], (60, 1))])
    (found,) = find_vanishing(observed(rms, GUESSING, 100, 2.3))
    assert (found.first_step, found.last_step, found.severity) == (0, 39, "critical")
