"""The rules on the recordings that are kept in the repository, and the scoring."""

import numpy as np
import pytest

from benchmarks.doctor.case import Case, Event, Expected, Network, Training
from benchmarks.doctor.labels import BUGGY, HEALTHY, Label, read_labels
from benchmarks.doctor.presets import PRESETS
from benchmarks.doctor.score import alarms, delay, is_right_place, looks, score, summarize
from benchmarks.doctor.slice import MAX_BYTES, SLICE, shorten
from stabletrain.diagnosis.doctor import diagnose
from stabletrain.diagnosis.history import load
from stabletrain.diagnosis.observations import About, Observations, Series, Table
from stabletrain.vocabulary.finding import Finding
from stabletrain.vocabulary.kinds import KINDS

FILES = sorted(SLICE.glob("*.npz"))
CASE = Case("a/b-0", "tuning", "blobs", Network("mlp", 4, 8), Training(num_steps=100))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_rules_are_right_on_the_slice(path):
    label = read_labels()[path.stem.replace("--", "/")]
    observations = load(path)
    assert bool(alarms(diagnose(observations))) == (label.word == BUGGY)
    for rules in PRESETS.values():
        assert all(finding.kind in KINDS for finding in rules(observations))


def test_the_slice_is_small():
    assert sum(path.stat().st_size for path in FILES) <= MAX_BYTES


def test_shortened_numbers_are_close_and_the_rest_stays():
    values = np.array([1.0, -3.14159, 1e-30, 0.0, np.nan, np.inf, -np.inf])
    short = shorten(values)
    assert np.allclose(short[:4], values[:4], rtol=2**-9, atol=0)
    assert np.isnan(short[4])
    assert short[5:].tolist() == [np.inf, -np.inf]


def _finding(kind, layer=None, first_step=0, severity="warning"):
    return Finding(kind, severity, layer, first_step, first_step, {})


def _losses(values):
    return Observations(
        scalars={"train/loss": Series(np.arange(len(values)), np.array(values))}, about=About(num_steps=len(values))
    )


def test_a_run_is_looked_at_early_and_after_its_fault_closely():
    assert looks(CASE)[:3] == [1, 4, 9]
    assert looks(CASE)[-1] == 99
    late = Case(**{**CASE.__dict__, "event": Event("poison", 50)})
    assert looks(late)[:3] == [50, 55, 59]


def _after(num_losses):
    """Rules that alarm once so many losses were seen."""
    alarm = [_finding("exploding", first_step=50)]
    return lambda o: alarm if len(o.scalars["train/loss"].steps) > num_losses else []


def test_the_first_alarm_is_the_first_look_with_one():
    observations = _losses([0.0] * 100)
    found = score(
        CASE, observations, lambda o: [_finding("exploding")] if len(o.scalars["train/loss"].steps) > 8 else []
    )
    assert (found.detected, delay(CASE, found)) == (9, 0.1)
    assert score(CASE, observations, lambda o: [_finding("exploding", severity="info")]).kind is None


def test_an_alarm_before_the_fault_is_no_detection():
    late = Case(**{**CASE.__dict__, "event": Event("poison", 50)})
    found = score(late, _losses([0.0] * 100), lambda o: [_finding("exploding", first_step=49)])
    assert found.is_early
    assert delay(late, found) == np.inf
    after = score(late, _losses([0.0] * 100), _after(55))
    assert (delay(late, after), is_right_place(late, after)) == (5, True)


@pytest.mark.parametrize(
    ("layer", "right"),
    [
        ("L00.blocks.0.linear.weight", True),
        ("L04.blocks.1", True),
        ("rnn.l0", False),
        ("L07.blocks.10", False),
        (None, False),
    ],
)
def test_a_layer_is_right_below_an_expected_path(layer, right):
    case = Case(**{**CASE.__dict__, "expected": Expected(("vanishing",), ("blocks.0", "blocks.1"))})
    found = score(case, _losses([0.0] * 9), lambda o: [_finding("vanishing", layer)])
    assert is_right_place(case, found) is right


def test_the_figures_are_shares_of_what_they_say():
    cases = [Case(**{**CASE.__dict__, "name": f"a/{i}", "expected": Expected(("vanishing",))}) for i in range(4)]
    words = [BUGGY, BUGGY, HEALTHY, HEALTHY]
    labels = {c.name: Label(w, (90.0,), 90.0, 0) for c, w in zip(cases, words, strict=True)}
    said = [[_finding("vanishing")], [], [_finding("exploding")], []]
    scores = {c.name: score(c, _losses([0.0] * 9), lambda o, f=f: f) for c, f in zip(cases, said, strict=True)}
    row = summarize(cases, labels, scores)
    assert (row.recall, row.false_alarms, row.right_kind) == (0.5, 0.5, 1.0)
    assert np.isnan(row.hard_alarms)


def _table(values, layers=("L00.a.weight", "L01.b.weight")):
    return Table(np.arange(len(values)), layers, np.array(values, float))


def test_autotrainer_looks_at_structure_only_where_accuracy_is_bad():
    rms = {"gradient": _table([[1e-6, 1.0]] * 10)}
    for accuracy, kinds in ((0.1, ["vanishing"]), (0.95, [])):
        values = np.array([0.5, accuracy]) if accuracy > 0.5 else np.array([0.1, 0.1])
        scalars = {"val/accuracy": Series(np.array([4, 9]), values)}
        found = PRESETS["AutoTrainer"](Observations(rms=rms, scalars=scalars, about=About(num_steps=10)))
        assert [f.kind for f in found] == kinds


def test_sagemaker_alarms_at_a_gradient_below_its_limit():
    for rms, kinds in ((1e-8, ["vanishing"]), (1e-6, [])):
        found = PRESETS["SageMaker Debugger"](Observations(rms={"gradient": _table([[rms, 1.0]] * 3)}))
        assert [f.kind for f in found] == kinds


def test_torchmortem_alarms_at_a_hundredth_of_the_last_layer():
    for rms, kinds in ((1e-3, ["vanishing"]), (0.1, [])):
        found = PRESETS["torchmortem"](Observations(rms={"gradient": _table([[rms, 1.0]] * 4)}))
        assert [f.kind for f in found] == kinds


@pytest.mark.parametrize("name", PRESETS)
def test_published_rules_see_what_is_not_finite_and_nothing_in_nothing(name):
    assert [f.kind for f in PRESETS[name](_losses([1.0, np.nan]))] == ["nonfinite"]
    assert PRESETS[name](Observations()) == []
