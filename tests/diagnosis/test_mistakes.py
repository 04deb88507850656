"""Notices of mistakes become findings: their severity, their words, and what they explain."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from stabletrain.diagnosis.doctor import diagnose
from stabletrain.diagnosis.observations import About, Observations, Series, Table
from stabletrain.diagnosis.rules.mistakes import MISTAKES
from stabletrain.vocabulary.kinds import KINDS
from stabletrain.vocabulary.notice import Notice

STEPS = np.arange(200)
STUCK, LEARNED = np.full(200, 2.3), 2.3 * 0.97**STEPS
HALF = np.maximum(LEARNED, 1.0)  # a fall of 57%: training lags and does not suffer


def observed(notice: Notice, losses=STUCK, *others: Notice) -> Observations:
    scalars = {"train/loss": Series(STEPS, losses)}
    return Observations(scalars=scalars, notices=(notice, *others), about=About(num_steps=200, prior_loss=2.3))


def seen(kind: str, certainty: str, **evidence) -> Notice:
    return Notice(kind, 0, 9, evidence={"certainty": certainty, **evidence})


@pytest.mark.parametrize("kind", [kind.name for kind in MISTAKES])
@pytest.mark.parametrize(
    ("certainty", "stuck", "half", "learned"),
    [
        ("certain", "critical", "critical", "warning"),
        ("likely", "warning", "warning", "warning"),
        ("possible", "warning", "warning", "info"),
        ("harmless", "info", "info", "info"),
    ],
)
def test_the_severity_follows_certainty_and_progress(kind, certainty, stuck, half, learned):
    notice = seen(kind, certainty)
    assert {f.severity for f in diagnose(observed(notice, HALF)) if f.kind == kind} == {half}
    assert {f.severity for f in diagnose(observed(notice, LEARNED)) if f.kind == kind} == {learned}
    found = diagnose(observed(notice))
    assert next(f.kind == kind for f in found if f.because_of is None) == (stuck != "info")
    if stuck != "info":
        assert found[0].kind == kind
        assert {f.because_of for f in found[1:] if f.kind == "no_progress"} == {kind}


@pytest.mark.parametrize("kind", ["input_scale", "target_scale"])
@pytest.mark.parametrize(("certainty", "harm"), [("likely", [STUCK, HALF]), ("possible", [STUCK])])
def test_a_scale_must_do_harm(kind, certainty, harm):
    notice = seen(kind, certainty, mean=30.0, std=2.0)
    for losses in (STUCK, HALF, LEARNED):
        alarms = [f for f in diagnose(observed(notice, losses)) if f.kind == kind and f.alarms]
        assert bool(alarms) == any(losses is x for x in harm)


def test_a_first_loss_that_inputs_off_scale_made_large_shows_no_learning():
    notice = seen("input_scale", "likely", mean=300.0, std=200.0)
    fallen = observed(notice, np.concatenate([[1290.0], np.full(199, 1.5)]))
    unknown = replace(fallen, about=replace(fallen.about, prior_loss=None))
    assert "input_scale" in [f.kind for f in diagnose(unknown) if f.alarms]


def test_what_only_slows_training_down_must_have_done_so():
    notice = seen("output_activation", "possible", slows=True)
    assert [f.alarms for f in diagnose(observed(notice, HALF)) if f.kind == "output_activation"] == [False]
    assert diagnose(observed(notice))[0].kind == "output_activation"


def test_the_advice_names_what_was_seen_and_the_line():
    notice = seen("input_scale", "possible", detail="Mean 3, deviation 4.", remedy="x = (x - 3) / 4", mean=3.0)
    finding = next(f for f in diagnose(observed(notice)) if f.kind == "input_scale")
    words = f"Mean 3, deviation 4. {KINDS['input_scale'].advice} In code: x = (x - 3) / 4"
    assert finding.advice == f"{words}, and train for 2,000 steps."  # 200 are few for any network
    assert finding.evidence == {"certainty": "possible", "remedy": "x = (x - 3) / 4", "mean": 3.0}
    assert finding.overrides == []
    other = seen("input_scale", "possible", detail="All zero.", advice="Look at the data.", remedy="print(x)")
    assert diagnose(observed(other))[0].advice.startswith("All zero. Look at the data. In code: print(x)")


@pytest.mark.parametrize(("origin", "severity"), [("overflow", "critical"), ("invalid_operation", "info")])
def test_a_scale_explains_an_overflow_and_nothing_else_that_is_not_finite(origin, severity):
    broken = Notice("nonfinite", 5, 5, evidence={"origin": origin})
    found = diagnose(observed(seen("input_scale", "possible"), LEARNED, broken))
    assert next(f.severity for f in found if f.kind == "input_scale") == severity


def test_without_notices_there_is_nothing_to_find():
    kinds = {kind.name for kind in MISTAKES}
    assert [f for f in diagnose(Observations(about=About(num_steps=10))) if f.kind in kinds] == []


@pytest.mark.parametrize("kind", ["clip_ineffective", "no_progress"])
def test_what_was_seen_explains_what_it_looks_like_and_follows_from_no_statistic(kind):
    """Of a kind that statistics find as well: the loss stays at chance level, and the rate is far too high."""
    high = Table(STEPS, ("00.weight",), np.full((200, 1), 0.5))
    ones = Table(STEPS, ("00.weight",), np.ones((200, 1)))
    plain = observed(seen("input_scale", "harmless"))
    rms = {"gradient": ones, "weight": ones, "update": high}
    first, *others = diagnose(replace(plain, rms=rms))
    assert first.kind == "lr_too_high"
    assert {f.because_of for f in others if f.kind == "no_progress"} == {"lr_too_high"}
    notice = seen(kind, "certain", detail="Seen.", remedy="the line")
    first, *others = diagnose(replace(observed(notice), rms=rms))
    assert (first.kind, first.severity) == (kind, "critical")
    assert first.advice.startswith("Seen. ")
    assert first.advice.endswith("In code: the line.")
    assert {f.because_of for f in others if f.kind == "lr_too_high"} == {kind}
    assert [f for f in others if f.kind == kind] == [], "one finding of a kind is enough"


def test_a_possible_lack_of_a_relation_is_an_alarm_only_if_training_lags():
    notice = seen("no_progress", "possible")
    assert [f.severity for f in diagnose(observed(notice, LEARNED)) if f.kind == "no_progress"] == ["info"]
    assert diagnose(observed(notice, HALF))[0].severity == "warning"
    as_game = observed(notice)
    found = diagnose(replace(as_game, about=replace(as_game.about, is_game=True)))
    assert {f.severity for f in found if f.kind == "no_progress"} <= {"info"}, "the loss of a game shows nothing"


@pytest.mark.parametrize(("losses", "val_loss", "severity"), [
    (LEARNED, 2.4, "warning"), (LEARNED, 1.0, "info"), (LEARNED, None, "info"), (HALF, None, "info"),
    (np.full(200, 1.9), None, "warning"),
])  # fmt: skip
def test_a_training_that_may_memorize_is_judged_by_validation_if_it_goes_well(losses, val_loss, severity):
    seen_so_far = observed(seen("no_progress", "possible", memorizes=True), losses)
    validations = {} if val_loss is None else {"val/loss": Series(np.array([50, 100, 150]), np.full(3, val_loss))}
    found = diagnose(replace(seen_so_far, scalars={**seen_so_far.scalars, **validations}))
    assert [f.severity for f in found if f.kind == "no_progress" and f.evidence.get("memorizes")] == [severity]
