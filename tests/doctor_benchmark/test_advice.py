"""What a remedy does to a case, how its outcome is judged, and when a promise is kept."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from benchmarks.demonstrations import Promise, table
from benchmarks.doctor.advice import outcome_of, sample
from benchmarks.doctor.advice_tables import FIXED, IMPROVED, UNCHANGED, WORSE, Row, interval, print_tables
from benchmarks.doctor.case import Case, Event, Network, Start, Training
from benchmarks.doctor.composition import choices_of
from benchmarks.doctor.run import corrupt_
from benchmarks.doctor.treatment import treat
from stabletrain.diagnosis.plan import BROKE_ON
from stabletrain.vocabulary.finding import Finding
from stabletrain.vocabulary.origins import MADE_ON, ORIGIN, OVERFLOW, WEIGHT

CASE = Case("a/b-0", "tuning", "blobs", Network("mlp", 4, 8, "sigmoid"), Training(num_steps=5), Start(gain=0.1))


def test_words_change_the_case_or_call_the_library():
    treated = treat(CASE, "activation=relu init=he clip=norm")
    assert treated.is_applied
    assert (treated.case.network.activation, treated.init, treated.case.training.clip) == ("relu", "he", 1.0)
    other = treat(CASE, "optimizer=adam optimizer.lr=0.003 schedule=warmup_cosine")
    training = other.case.training
    assert (training.optimizer, training.lr, training.schedule) == ("adam", 0.003, "warmup_cosine")
    other = treat(CASE, "optimizer=adam optimizer.lr=0.003 schedule=warmup_cosine")
    training = other.case.training
    assert (training.optimizer, training.lr, training.schedule) == ("adam", 0.003, "warmup_cosine")
    plain, made = (treat(CASE, words).make_run(0).model.blocks[1].linear.weight.std() for words in ("", "init=he"))
    assert made > 5 * plain  # a tenth of the usual scale, fixed
    recurrent = replace(CASE, network=Network("rnn", 1, 8, "tanh"))
    assert treat(recurrent, "model=lstm").case.network.family == "lstm"
    assert not treat(recurrent, "norm=layer").is_applied


def test_the_rate_is_found_where_the_loss_falls():
    case = replace(CASE, network=Network("mlp", 1, 8, "relu"), training=Training(num_steps=5, lr=1e-9))
    found = treat(case, "lr_find=true").make_run(0).training
    assert 1e-3 < found.lr < 0.2
    assert found == replace(case.training, lr=found.lr)


def test_a_rate_that_rose_is_put_back():
    jumped = replace(CASE, event=Event("lr_jump", 3, 100.0))
    finding = Finding("lr_too_high", "critical", None, 3, 4, {"lr_before": 1e-3})
    assert treat(jumped, "optimizer.lr=0.001", finding).case.event is None
    assert treat(jumped, "clip=norm", None).case.event is not None


def test_a_training_that_broke_goes_on_with_a_new_optimizer():
    damaged = replace(CASE, training=Training(num_steps=5, momentum=0.9), event=Event("momentum", 3, 1e6))
    broke = Finding("exploding", "critical", None, 4, 4, {BROKE_ON: 3})
    state = Finding("nonfinite", "critical", None, 4, 4, {ORIGIN: WEIGHT, MADE_ON: 3})
    for finding in (broke, state):
        assert treat(damaged, "", finding).case.event == Event("restart", 3)
    overflowed = Finding("nonfinite", "critical", None, 4, 4, {ORIGIN: OVERFLOW, MADE_ON: 3})
    assert treat(damaged, "", overflowed).case.event == damaged.event
    run = treat(damaged, "", broke).make_run(0)
    for step in range(3):
        run.take_step(step, None)
    assert run.optimizer.state
    corrupt_(run.optimizer, Event("restart", 3))
    assert not run.optimizer.state
    assert math.isfinite(run.take_step(3, None))


def test_the_composition_says_when_the_initialization_is_no_usual_one():
    assert choices_of(CASE)["init"] == "normal"
    assert choices_of(replace(CASE, start=Start()))["init"] == "he"


@pytest.mark.parametrize(
    ("points", "word"),
    [(88.0, FIXED), (70.0, IMPROVED), (52.0, UNCHANGED), (48.0, UNCHANGED), (30.0, WORSE), (math.nan, WORSE)],
)
def test_outcomes(points, word):
    assert outcome_of(points, before=50.0, reference=90.0) == word


def test_a_sample_is_spread_over_the_families():
    families = ("vanishing", "exploding")
    biases = {f: [10.0 * place + i for i in range(9)] for place, f in enumerate(families)}
    cases = [replace(CASE, family=family, start=Start(bias=x)) for family in families for x in biases[family]]
    assert {case.family for case in sample(cases, 2)} == set(families)
    assert sample(cases, 4) == sample(reversed(cases), 4)
    assert len(sample(cases, None)) == 18


def test_shares_of_the_advice_have_intervals_and_leave_out_removed_events(capsys):
    assert [round(100 * x) for x in interval(9, 10)] == [60, 98]
    assert [round(100 * x) for x in interval(0, 50)] == [0, 7]
    rows = [
        Row(CASE, "lr_too_high", ("a=1", "b=1"), FIXED, UNCHANGED, UNCHANGED, by="a=1"),
        Row(CASE, "lr_too_high", ("a=1", "b=1"), WORSE, FIXED, WORSE, by="b=1"),
        Row(CASE, "vanishing", ("a=1", "b=1"), UNCHANGED, IMPROVED, UNCHANGED),
        Row(CASE, "nonfinite", (), FIXED, FIXED, UNCHANGED, removes_event=True),
    ]
    print_tables(rows, catalogue=True)
    lines = capsys.readouterr().out.splitlines()
    assert "| lr_too_high | 2 | 1 | 0 | 0 | 1 | 0 | 2 |" in lines
    assert "| all | 4 | 2 | 0 | 1 | 1 | 0 | 3 |" in lines
    assert lines[lines.index("3 other runs:") + 1].startswith("- first remedy: fixed 1 of 3, 33% (")
    fixable = lines.index("2 other runs that some remedy of the catalogue fixes:")
    assert lines[fixable + 2].startswith("- one of the first two: fixed 2 of 2, 100% (34 to 100), worse 0 of 2")


def test_promises():
    promise = Promise("a=b", verdict="healthy", accuracy=(0.8, 1.0))
    good = {"words": "a=b", "seed": 0, "threads": 1, "exit_code": 0, "verdict": "healthy", "accuracy": 0.9}
    bad = good | {"seed": 1, "accuracy": 0.5}
    assert promise.is_kept(good)
    assert not promise.is_kept(bad)
    assert not promise.is_kept(good | {"exit_code": 3})
    assert table([good, bad], [promise])[2] == "| `a=b` | 2 | 1 | seed 1, 1 threads | 0.50–0.90 |"
