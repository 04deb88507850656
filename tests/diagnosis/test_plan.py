"""One plan for a run: no two findings contradict each other, whatever was found."""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from observed import observed, series, table

from benchmarks.doctor.slice import SLICE
from stabletrain.diagnosis.circumstances import Circumstances
from stabletrain.diagnosis.doctor import diagnose
from stabletrain.diagnosis.history import load
from stabletrain.diagnosis.observations import About, Observations
from stabletrain.diagnosis.plan import PRETRAINED, with_remedies
from stabletrain.diagnosis.rates import Rate
from stabletrain.vocabulary.finding import BECAUSE, RECOVERED, Finding
from stabletrain.vocabulary.kinds import KINDS

COMPOSED = About(
    choices={"model": "mlp", "activation": "sigmoid", "clip": "norm", "optimizer": "momentum"},
    settings={"optimizer.lr": 1e-3, "clip.max_norm": 1.0},
)
FOREIGN = About(settings={"optimizer.lr": 1e-3})
LOWER, HIGHER = ("to a tenth", "lower the learning rate"), ("ten times higher", "hardly move: raise it")


def found(kind: str, severity: str = "warning", **evidence: Any) -> Finding:
    return Finding(kind, severity, None, 0, 9, evidence)


def values_of(findings: list[Finding]) -> dict[str, set[str]]:
    """Every value that any finding proposes, by setting; the rate of another optimizer is one of another setting."""
    values: dict[str, set[str]] = {}
    for finding in findings:
        for override in finding.overrides:
            words = dict(word.split("=", 1) for word in shlex.split(override))
            for key, value in words.items():
                name = f"{key} of {words['optimizer']}" if key == "optimizer.lr" and "optimizer" in words else key
                values.setdefault(name, set()).add(value)
    return values


def assert_one_plan(findings: list[Finding]) -> None:
    for key, values in values_of(findings).items():
        assert len(values) == 1, (key, values)


@pytest.mark.parametrize("path", sorted(SLICE.glob("*.npz")), ids=lambda path: path.stem)
def test_the_recordings_get_one_plan(path):
    assert_one_plan(diagnose(load(path)))


KIND_SETS = st.lists(st.sampled_from(sorted(KINDS)), min_size=2, max_size=6, unique=True)
RATES = st.builds(
    Rate,
    lr=st.floats(1e-8, 100),
    is_adaptive=st.sampled_from([True, False, None]),
    first=st.none() | st.floats(1e-3, 1e5),
    typical=st.none() | st.floats(1e-3, 1e5),
    num_steps=st.none() | st.integers(1, 10**6),
)


@settings(deadline=None, max_examples=100)
@given(kinds=KIND_SETS, severities=st.lists(st.sampled_from(["info", "warning"]), min_size=6, max_size=6), rate=RATES)
def test_any_set_of_findings_gets_one_plan(kinds, severities, rate):
    findings = [found(kind, severity) for kind, severity in zip(kinds, severities, strict=False)]
    choices, values = COMPOSED.choices, {"optimizer.lr": rate.lr, "clip.max_norm": 1.0}
    advised = with_remedies(findings, Circumstances(choices=choices, settings=values, rate=rate))
    assert_one_plan(advised)
    rates = {float(v) for v in values_of(advised).get("optimizer.lr", ())}
    assert all(v > 0 for v in rates)
    text = " ".join(f.advice for f in with_remedies(findings, Circumstances(settings=values, rate=rate)))
    assert not (any(x in text for x in LOWER) and any(x in text for x in HIGHER)), text


def test_the_first_finding_decides_the_direction():
    lowered = with_remedies([found("lr_too_high"), found("lr_too_low", "info")], COMPOSED)
    assert lowered[0].overrides[0] == "optimizer.lr=0.0001"
    assert lowered[1].overrides == []
    assert "lowers the learning rate" in lowered[1].advice
    raised = with_remedies([found("lr_too_low"), found("dead_units", "info")], COMPOSED)
    assert raised[0].overrides[0] == "optimizer.lr=0.01"
    assert not any("optimizer.lr" in override for override in raised[1].overrides)


def test_a_symptom_proposes_what_mends_its_cause():
    cause, symptom = with_remedies(
        [found("vanishing"), found("lr_too_low", "info", **{BECAUSE: "vanishing"})], COMPOSED
    )
    assert cause.overrides[0] == "activation=relu init=he"
    assert symptom.overrides == cause.overrides
    assert symptom.reasons == cause.reasons
    assert symptom.advice.startswith("It follows from vanishing")


def test_in_code_says_the_number():
    (low,) = with_remedies([found("lr_too_low")], Circumstances(rate=Rate(1e-5, True, None, None, 300)))
    assert low.overrides == []
    assert "In code: set the optimizer's lr=0.003" in low.advice
    (unknown,) = with_remedies([found("lr_too_low")], Circumstances())
    assert "ten times higher" in unknown.advice


@pytest.mark.parametrize("kind", KINDS)
def test_trained_weights_are_never_initialized_again(kind):
    (advised,) = with_remedies([found(kind)], Circumstances(is_pretrained=True))
    assert "st.initialize_" not in advised.advice.partition("In code")[2] or not KINDS[kind].remedies
    assert PRETRAINED in advised.advice
    (composed,) = with_remedies([found(kind)], Circumstances(choices={"model": "mlp"}, is_pretrained=True))
    assert not any("init=" in override for override in composed.overrides)


def test_a_spike_that_came_back_is_not_said_to_last():
    (back,) = with_remedies([found("loss_spike", "info", **{RECOVERED: True})], COMPOSED)
    (stays,) = with_remedies([found("loss_spike", **{RECOVERED: False})], COMPOSED)
    assert "came back" in back.advice
    assert "did not recover" in stays.advice


def test_frozen_weights_are_seen():
    names = ["L00.base.weight", "L01.base2.weight", "L02.adapter.weight"]
    weight, gradient = table([0.1, 0.1, 0.1], layers=names), table([0.1], layers=names[2:])
    base = observed(losses=np.full(100, 2.3), num_steps=100, prior_loss=2.3)
    known = replace(base, about=replace(base.about, frozen_share=0.9))
    assert [PRETRAINED in f.advice for x in (base, known) for f in diagnose(x) if f.alarms] == [False, True]
    frozen = Observations(rms={"weight": weight, "gradient": gradient}, scalars=base.scalars, about=base.about)
    (finding,) = [f for f in diagnose(frozen) if f.alarms]
    assert PRETRAINED in finding.advice
    assert "st.initialize_" not in finding.advice
    whole = Observations(rms={"weight": weight, "gradient": weight}, scalars=base.scalars, about=base.about)
    assert PRETRAINED not in diagnose(whole)[0].advice


def test_a_loss_far_below_its_prior_is_a_good_start():
    losses = np.concatenate([np.full(50, 0.3), np.full(50, 2.3)])
    spread = [1.0, 0.1, 0.01, 0.001, 0.1]
    good = observed(losses=losses, num_steps=100, prior_loss=2.3, activation=spread)
    assert "bad_init" not in [f.kind for f in diagnose(good)]
    bad = observed(losses=np.full(100, 2.3), num_steps=100, prior_loss=2.3, activation=spread)
    assert diagnose(bad)[0].kind == "bad_init"


def _with_rate(lr, updates, losses, activation=None):
    more = {} if activation is None else {"activation": activation}
    n = len(losses)
    base = observed(
        losses=losses, num_steps=n, prior_loss=2.3, update=np.full((n, 3), updates), weight=np.full((n, 3), 0.1), **more
    )
    gradient = table(np.tile([1e-2, 1e-3, 1e-4], (n, 1)))
    about = About(num_steps=n, prior_loss=2.3, settings={"optimizer.lr": lr})
    scalars = {**base.scalars, "train/lr": series([lr], [0])}
    return Observations(rms={**base.rms, "gradient": gradient}, scalars=scalars, about=about)


SHRINKING = [1.0, 0.1, 0.01, 0.001, 0.1]


@pytest.mark.parametrize(("lr", "kind"), [(1.0, "lr_too_high"), (1e-8, "lr_too_low"), (1e-3, "bad_init")])
def test_a_rate_far_from_usual_needs_no_initialization_to_explain_it(lr, kind):
    findings = diagnose(_with_rate(lr, lr, np.full(100, 2.3), SHRINKING))
    assert findings[0].kind == kind
    assert_one_plan(findings)


@pytest.mark.parametrize(("step", "first"), [(3, "bad_init"), (40, "nonfinite")])
def test_an_initialization_explains_nan_only_at_the_beginning(step, first):
    bad = np.zeros((step + 1, 3))
    bad[step] = 1
    base = observed(losses=np.full(step + 1, 2.3), num_steps=100, prior_loss=2.3, activation=[1.0, 30, 1000, 3e4, 1e6])
    nan = Observations(rms=base.rms, scalars=base.scalars, nonfinite={"gradient": table(bad)}, about=base.about)
    findings = diagnose(nan)
    assert findings[0].kind == first
    assert [f.because_of for f in findings if f.kind == "nonfinite"] == [None if first == "nonfinite" else "bad_init"]


def _outputs(names, values, losses):
    outputs = table(values, layers=names)
    parameters = [f"L{i:02d}.{name}.weight" for i, name in enumerate(["embed", "norm", "up", "down", "head", "mean"])]
    base = observed(losses=losses, num_steps=100, prior_loss=2.3)
    rms = {"activation": outputs, "gradient": table(np.full((10, len(parameters)), 0.1), layers=parameters)}
    return [f.kind for f in diagnose(Observations(rms=rms, scalars=base.scalars, about=base.about)) if f.alarms]


def test_layers_without_weights_and_single_small_ones_are_no_bad_init():
    stuck = np.full(100, 2.3)
    names = ["L00.embed", "L01.rotary", "L02.norm", "L03.up", "L04.softmax", "L05.down", "L06.mean"]
    rotary = _outputs(names, [1.0, 200.0, 1.0, 0.6, 1e-3, 0.5, 0.1], stuck)
    small_head = _outputs(names, [1.0, 1.0, 1.0, 0.6, 0.5, 0.005, 0.1], stuck)
    normalized = _outputs(
        ["L00.embed", "L01.up", "L02.down", "L03.norm", "L04.head"], [1.0, 0.1, 0.01, 1.0, 0.3], stuck
    )
    assert "bad_init" not in rotary + small_head + normalized
    shrinking = _outputs(
        ["L00.embed", "L01.up", "L02.down", "L03.mean", "L04.head"], [1.0, 0.1, 0.01, 1e-3, 0.3], stuck
    )
    assert "bad_init" in shrinking


@pytest.mark.parametrize(
    ("rate", "least", "most"),
    [
        (Rate(1e-5, False, 3e-2, 3e-2, 300), 3e-3, 0.5),  # SGD
        (Rate(20.0, False, 0.05, 0.05, 300), 3e-3, 0.5),  # momentum
        (Rate(3.0, True, 10.0, 10.0, 300), 1e-4, 5e-3),  # Adam
        (Rate(1e-7, True, 10.0, 10.0, 300), 1e-4, 5e-3),
        (Rate(1e-7, True, 50.0, 50.0, 10**5), 1e-5, 1e-3),  # wide layers and a long training
        (Rate(20.0, None, None, None, None), 1.0, 10.0),  # nothing known: a tenth
    ],
)
def test_rates_jump_to_where_they_work(rate, least, most):
    assert rate.lr
    usual = rate.lower() if rate.lr > 0.1 else rate.higher()
    assert usual
    assert least <= usual <= most
    assert usual == float(f"{usual:.0e}")


def test_the_optimizer_is_told_from_its_first_update():
    from stabletrain.diagnosis.rates import rate_of

    adam = _with_rate(1e-3, 1e-3, np.full(10, 2.3))
    assert rate_of(adam).is_adaptive is True
    gradient = adam.rms["gradient"].values
    plain = Observations(
        rms={**adam.rms, "update": table(0.1 * gradient)},
        scalars=adam.scalars,
        about=adam.about,
    )
    assert rate_of(plain).is_adaptive is False
    assert rate_of(Observations()).is_adaptive is None
