"""Vanishing and exploding over depth: properties, and who is named."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stabletrain.diagnosis.doctor import diagnose
from stabletrain.diagnosis.finding import Finding
from stabletrain.diagnosis.observations import Observations
from stabletrain.diagnosis.rules.depth import depth_decades, find_exploding, find_vanishing
from stabletrain.signal.snapshot import LayerStatistics, Snapshot

RMS = st.floats(1e-20, 1e20)


def snapshot(*rms: float | None, step: int = 0) -> Snapshot:
    layers = (LayerStatistics(f"L{i:02d}.w", 10, value, 10 if value is None else 0) for i, value in enumerate(rms))
    return Snapshot(step, tuple(layers))


def steady(*rms: float | None, num_snapshots: int = 4) -> Observations:
    return Observations(tuple(snapshot(*rms, step=10 * s) for s in range(num_snapshots)))


@given(RMS, st.lists(RMS), RMS)
def test_only_the_first_and_the_last_layer_count(first, between, last):
    assert depth_decades(snapshot(first, *between, last)) == pytest.approx(
        math.log10(first) - math.log10(last), abs=1e-9
    )


@given(RMS, RMS, st.floats(1e-5, 1e5))
def test_the_scale_of_the_whole_gradient_does_not_matter(first, last, scale):
    plain, scaled = depth_decades(snapshot(first, last)), depth_decades(snapshot(first * scale, last * scale))
    assert plain == pytest.approx(scaled, abs=1e-9)


@given(RMS, RMS)
def test_turned_round_vanishing_is_exploding(first, last):
    def evidence(findings: list[Finding]) -> list[float]:
        return [f.evidence["log10_ratio_first_to_last"] for f in findings]

    vanishing, exploding = find_vanishing(steady(first, last)), find_exploding(steady(last, first))
    assert evidence(vanishing) == [-x for x in evidence(exploding)]
    assert [f.severity for f in vanishing] == [f.severity for f in exploding]
    assert not (vanishing and find_exploding(steady(first, last)))


@pytest.mark.parametrize(
    ("rms", "decades"),
    [
        ((1.0, 1.0), 0.0),
        ((1e-9, 1.0), -9.0),
        ((0.0, 1.0), -45.0),
        ((1.0, 0.0), 45.0),
        ((1e-60, 1.0), -45.0),  # float64 below float32's smallest number
        ((None, 1e-4, 1.0), -4.0),
        ((0.0, 0.0), None),
        ((1.0,), None),
        ((None, 1.0), None),
        ((None, None), None),
        ((), None),
    ],
)
def test_decades_of_corners(rms, decades):
    found = depth_decades(snapshot(*rms))
    assert found is None if decades is None else found == pytest.approx(decades)


def test_the_layer_named_is_the_one_that_was_measured():
    (finding,) = find_vanishing(steady(None, 1e-6, 1e-1))
    assert finding.layer == "L01.w"  # the first has no finite gradient: another rule's case
    assert [f.kind for f in diagnose(steady(None, 1e-6, 1e-1))] == ["nonfinite", "vanishing"]


def test_the_evidence_says_how_much_and_how_often():
    bad = [snapshot(1e-4, 1.0, step=s) for s in range(1, 5)]
    (finding,) = find_vanishing(Observations((snapshot(1.0, 1.0), *bad)))
    assert finding.evidence == {"log10_ratio_first_to_last": -4.0, "threshold": -3.0, "share_of_snapshots": 0.8}
    assert (finding.first_step, finding.last_step, finding.severity) == (1, 4, "warning")


def test_snapshots_that_say_nothing_are_not_counted():
    silent = tuple(snapshot(0.0, 0.0, step=s) for s in range(20))
    bad = tuple(snapshot(1e-9, 1.0, step=20 + s) for s in range(3))
    (finding,) = find_vanishing(Observations(silent + bad))
    assert (finding.first_step, finding.evidence["share_of_snapshots"]) == (20, 1.0)
    assert find_vanishing(Observations(silent + bad[:2])) == []


def test_a_start_from_zero_is_no_vanishing_gradient():
    """A residual branch or a head that begins at zero passes nothing back on the first step only."""
    start, later = snapshot(0.0, 1.0), [snapshot(0.1, 1.0, step=s) for s in range(1, 10)]
    assert diagnose(Observations((start, *later))) == []


def test_a_vanishing_gradient_and_one_that_takes_off_are_two_findings():
    norms = dict(enumerate([1.0] * 100 + [1e5] * 5))
    observations = Observations(steady(1e-9, 1.0).snapshots, norms)
    assert [(f.kind, f.severity) for f in diagnose(observations)] == [
        ("vanishing", "critical"),
        ("exploding", "warning"),
    ]


def test_nonfinite_only_counts_the_first_step_that_was_hit():
    hit = (
        snapshot(1.0, 1.0, 1.0),
        snapshot(1.0, None, 1.0, step=7),
        snapshot(None, 1.0, None, step=8),
        snapshot(1.0, 1.0, 1.0, step=9),
    )
    (finding,) = diagnose(Observations(hit))
    assert (finding.kind, finding.layer, finding.first_step, finding.last_step) == ("nonfinite", "L01.w", 7, 8)
    assert finding.evidence == {"num_nonfinite": 10, "size": 10, "layers": ["L01.w"]}
    (finding,) = diagnose(Observations(hit, choices={"model": "mlp"}, learning_rate=0.5))
    assert "optimizer.lr=0.05" in finding.overrides
