"""The benchmark's list of cases, its data, networks and labels."""

import itertools
import math
from collections import Counter
from dataclasses import replace

import pytest
import torch

import stabletrain as st
from benchmarks.doctor.case import NUM_SEEDS, PARTS, Case, Event, Network, Start, Training
from benchmarks.doctor.cases import BUGGY_FAMILIES, NUM_CANDIDATES, make_cases
from benchmarks.doctor.composition import words_of
from benchmarks.doctor.healthy import HARD
from benchmarks.doctor.labels import BETWEEN, BUGGY, HEALTHY, NO_REFERENCE, Outcome, label_all, label_of
from benchmarks.doctor.recipes import make_recipes
from benchmarks.doctor.run import Run
from benchmarks.doctor.tasks import make_task
from stabletrain.app.composition.compose import compose
from stabletrain.vocabulary.kinds import KINDS

TINY = Case(
    "tiny/reference",
    "tuning",
    "blobs",
    Network("mlp", 2, 8),
    Training(num_steps=6, batch_size=8),
    reference="tiny/reference",
)
TASKS = {(case.task, case.network.family) for case in make_recipes()}


def test_the_list_is_the_same_each_time_and_names_are_not_shared():
    first = make_cases()
    make_cases.cache_clear()
    assert make_cases() == first
    assert len({case.name for case in first}) == len({case.digest for case in first}) == len(first)


def test_all_parts_have_every_family_and_share_neither_seed_nor_architecture():
    parts = {part: [case for case in make_cases() if case.part == part] for part in PARTS}
    recipes = {part: {(c.task, c.network) for c in make_recipes() if c.part == part} for part in PARTS}
    for one, other in itertools.combinations(PARTS, 2):
        assert not {s for case in parts[one] for s in case.seeds} & {s for case in parts[other] for s in case.seeds}
        assert not recipes[one] & recipes[other]
    for cases in parts.values():
        assert {case.family for case in cases} >= {*BUGGY_FAMILIES, *HARD}
        assert {case.network.family for case in cases} == {"mlp", "cnn", "rnn", "lstm", "gru", "transformer"}


def test_every_case_is_compared_with_one_that_is_there_and_expects_kinds_that_exist():
    names = {case.name for case in make_cases()}
    for case in make_cases():
        assert case.reference in names
        assert set(case.expected.kinds) <= set(KINDS)
        assert bool(case.expected.kinds) == (case.family in BUGGY_FAMILIES)
    assert {c.family for c in make_cases()} == {*NUM_CANDIDATES, "sgd"}


def test_what_leads_to_a_run_is_in_its_digest():
    changed = [
        replace(TINY, network=Network("mlp", 3, 8)),
        replace(TINY, start=Start(gain=2.0)),
        replace(TINY, training=Training(num_steps=7, batch_size=8)),
        replace(TINY, event=Event("skip", 2)),
        replace(TINY, part="reporting"),
        replace(TINY, task="moons"),
    ]
    assert len({TINY.digest, *(case.digest for case in changed)}) == 1 + len(changed)
    assert replace(TINY, name="other", family="frozen").digest == TINY.digest


@pytest.mark.parametrize(("task", "family"), sorted(TASKS))
def test_data_depend_on_the_seed_alone(task, family):
    make_task.cache_clear()
    first = make_task(task, family, 3)
    make_task.cache_clear()
    again, other = make_task(task, family, 3), make_task(task, family, 4)
    assert torch.equal(first.x, again.x)
    assert not torch.equal(first.x, other.x)
    assert 0 < first.prior_loss <= math.log(first.num_outputs) if not first.is_regression else first.prior_loss < 0.2
    make_task.cache_clear()


@pytest.mark.parametrize("recipe", make_recipes(), ids=lambda case: case.recipe)
def test_every_recipe_begins_near_the_best_guess(recipe):
    run = Run(recipe, recipe.seeds[0])
    loss = run.take_step(0, None)
    assert loss < 3 * run.task.prior_loss + 1.5
    assert all(p.grad is None or p.grad.isfinite().all() for p in run.model.parameters())


def test_a_watched_run_ends_as_an_unwatched_one():
    case = next(case for case in make_cases() if case.recipe == "copy20-rnn" and case.family == "plain")
    case = replace(case, training=replace(case.training, num_steps=6))
    unwatched, watched = Run(case, 0), Run(case, 0)
    points = unwatched()
    doctor = st.Doctor(watched.model, optimizer=watched.optimizer, num_steps=6)
    assert watched(doctor) == points
    for a, b in zip(unwatched.model.parameters(), watched.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert len(doctor.observations.scalars["train/loss"].steps) == 6
    assert "rnn.l0" in doctor.observations.time


def _weights(case):
    run = Run(case, 0)
    run()
    return torch.cat([p.detach().flatten() for p in run.model.parameters()]), run


@pytest.mark.parametrize(
    "kind", ["poison", "nan_batch", "lr_jump", "momentum", "moments", "nan_state", "outlier", "skip"]
)
def test_every_event_changes_the_run_from_its_step_on(kind):
    plain, run = _weights(TINY)
    changed, other = _weights(replace(TINY, event=Event(kind, 3, 100.0)))
    assert other.losses[:3] == run.losses[:3]
    assert not torch.equal(plain, changed)
    assert changed.isfinite().all() == (kind not in ("nan_batch", "nan_state"))


def test_a_skipped_step_leaves_the_weights():
    case = replace(TINY, event=Event("skip", 1), training=Training(num_steps=2, batch_size=8))
    one = replace(TINY, training=Training(num_steps=1, batch_size=8))
    assert torch.equal(_weights(case)[0], _weights(one)[0])


@pytest.mark.parametrize(
    ("points", "word"),
    [(95.0, HEALTHY), (92.0, HEALTHY), (91.9, BETWEEN), (85.1, BETWEEN), (85.0, BUGGY), (None, BUGGY)],
)
def test_a_label_is_the_distance_to_the_reference(points, word):
    assert label_of(points, 95.0) == word
    assert label_of(points, 20.0) == NO_REFERENCE


def test_the_median_run_decides_and_a_like_one_is_recorded():
    case = replace(TINY, name="tiny/other")
    assert len(case.seeds) == NUM_SEEDS
    outcomes = {TINY.name: Outcome((90.0,) * 5), case.name: Outcome((90.0, None, 40.0, 89.0, 50.0))}
    labels = label_all([TINY, case], outcomes)
    assert labels[TINY.name].word == HEALTHY
    assert (labels[case.name].word, labels[case.name].seed) == (BUGGY, 1)
    assert Outcome((None, None, None, 90.0, 90.0)).median is None


def test_what_is_compared_with_an_ill_run_has_no_label():
    sgd, poisoned = replace(TINY, name="tiny/sgd-0"), replace(TINY, name="tiny/p", reference="tiny/sgd-0")
    outcomes = {TINY.name: Outcome((90.0,) * 5), sgd.name: Outcome((60.0,) * 5), poisoned.name: Outcome((60.0,) * 5)}
    assert label_all([TINY, sgd, poisoned], outcomes)["tiny/p"].word == NO_REFERENCE


def test_the_same_run_composes():
    counts = Counter(tuple(words_of(case)) for case in make_recipes())
    for words in list(counts)[::6]:
        assert compose(list(words)).config["model"]
