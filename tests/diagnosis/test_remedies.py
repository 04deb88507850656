"""Remedies: what is proposed exists, is new, fits together, and composes."""

from __future__ import annotations

import itertools
import shlex

import pytest

from stabletrain.app.building.build import build
from stabletrain.app.composition.compose import compose
from stabletrain.app.composition.paths import list_groups
from stabletrain.diagnosis.circumstances import Circumstances
from stabletrain.diagnosis.observations import About
from stabletrain.diagnosis.plan import with_remedies
from stabletrain.diagnosis.rates import Rate
from stabletrain.vocabulary.finding import Finding
from stabletrain.vocabulary.kinds import KINDS

GROUPS = list_groups()
CHOSEN = ("model", "activation", "init", "norm", "residual", "clip")
SETTINGS = {"optimizer.lr": 1e-3, "clip.max_norm": 1.0}
FAMILIES = {
    "mlp": [],
    "cnn": ["data.form=image"],
    "resnet": ["data.form=image"],
    "densenet1d": ["data.form=rows"],
    "rnn": ["data.form=rows"],
    "lstm": ["data.form=rows"],
    "gru": ["data.form=rows"],
    "transformer": ["data.form=rows"],
}


def finding(kind: str) -> Finding:
    return Finding(kind, "critical", None, 0, 9, {})


def overrides(kind: str, choices: dict[str, str], settings=SETTINGS) -> list[str]:
    (found,) = with_remedies([finding(kind)], About(choices=choices, settings=settings))
    return found.overrides


def words(overrides: list[str]) -> list[str]:
    return [word for override in overrides for word in shlex.split(override)]


def all_choices():
    """Yield every choice of the groups that the remedies speak of, but for clip and residual: those in turn."""
    others = itertools.cycle(itertools.product(GROUPS["residual"], GROUPS["clip"]))
    for model, activation, init, norm in itertools.product(*(GROUPS[group] for group in CHOSEN[:4])):
        yield dict(zip(CHOSEN, (model, activation, init, norm, *next(others)), strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_every_proposal_exists_and_is_new(kind):
    for choices in all_choices():
        found = overrides(kind, choices)
        assert len(set(found)) == len(found)
        for word in words(found):
            key, _, value = word.partition("=")
            assert key in ("optimizer.lr", "clip.max_norm", "lr_find") or value in GROUPS[key], word
            assert choices.get(key) != value, word


def test_a_model_of_ones_own_gets_no_parts_proposed():
    choices = {"model": "custom", "norm": "none", "residual": "none", "activation": "sigmoid"}
    for kind in KINDS:
        keys = {word.partition("=")[0] for word in words(overrides(kind, choices))}
        assert keys <= {"clip", "clip.max_norm", "init", "optimizer.lr", "optimizer", "schedule"}, kind


def test_without_choices_there_are_words_and_calls_alone():
    for kind in KINDS:
        (found,) = with_remedies([finding(kind)], About())
        assert found.overrides == found.reasons == []
        assert found.advice.startswith(KINDS[kind].advice)
        assert "In code: " in found.advice


def test_each_remedy_has_its_reason():
    (found,) = with_remedies([finding("vanishing")], About(choices={"model": "mlp", "activation": "sigmoid"}))
    assert found.overrides == ["activation=relu init=he", "norm=layer", "residual=add"]
    assert len(found.reasons) == 3
    assert all(reason.endswith(".") for reason in found.reasons)


@pytest.mark.parametrize(
    ("kind", "choices", "expected"),
    [
        ("vanishing", {"model": "mlp", "activation": "relu", "init": "he"}, ["norm=layer", "residual=add"]),
        ("vanishing", {"model": "rnn", "activation": "tanh"}, ["model=lstm", "init=orthogonal", "norm=layer"]),
        ("time_exploding", {"model": "rnn", "init": "normal"}, ["clip=norm init=orthogonal", "model=lstm"]),
        (
            "time_exploding",
            {"model": "rnn", "init": "normal", "clip": "norm"},
            ["init=orthogonal", "clip.max_norm=0.1"],
        ),
        ("nonfinite", {"model": "rnn", "init": "orthogonal"}, ["clip=norm", "optimizer.lr=0.0001"]),
        ("time_vanishing", {"model": "lstm"}, ["init=chrono", "norm=layer"]),
        ("exploding", {"model": "mlp", "clip": "norm", "activation": "relu"}, ["init=he", "clip.max_norm=0.1"]),
        (
            "lr_too_high",
            {"model": "mlp"},
            ["optimizer.lr=0.0001", "optimizer.lr=0.0001 schedule=warmup_cosine", "clip=norm"],
        ),
        ("oscillation", {"model": "gru", "init": "normal"}, ["init=orthogonal", "optimizer.lr=0.0001"]),
        ("oscillation", {"model": "gru", "init": "chrono"}, ["optimizer.lr=0.0001"]),
        ("lr_too_low", {"model": "mlp"}, ["optimizer.lr=0.01", "lr_find=true"]),
        ("dead_units", {"model": "mlp", "activation": "relu"}, ["activation=leaky_relu init=he", "norm=layer"]),
        ("clip_always", {"model": "mlp", "clip": "norm"}, ["clip.max_norm=10", "optimizer.lr=0.0001"]),
    ],
)
def test_what_is_tried_first(kind, choices, expected):
    assert overrides(kind, choices)[: len(expected)] == expected


@pytest.mark.parametrize(
    ("optimizer", "clip", "died", "expected"),
    [
        ("momentum", "none", 7, ["activation=leaky_relu init=he clip=norm", "norm=layer"]),
        ("momentum", "norm", 7, ["activation=leaky_relu init=he", "norm=layer"]),
        ("adam", "none", 7, ["activation=leaky_relu init=he", "norm=layer"]),
        ("adam", "none", 100, ["activation=leaky_relu init=he", "optimizer.lr=0.0003"]),
    ],
)
def test_dead_units_are_woken_and_the_steps_that_follow_bounded(optimizer, clip, died, expected):
    rate = Rate(lr=1e-3, is_adaptive=optimizer == "adam")
    choices = {"model": "mlp", "activation": "relu", "optimizer": optimizer, "clip": clip}
    about = Circumstances(choices=choices, settings=SETTINGS, rate=rate)
    (found,) = with_remedies([Finding("dead_units", "critical", None, died, 200, {})], about)
    assert found.overrides[:2] == expected


def test_a_rate_that_nobody_knows_is_not_lowered():
    assert "optimizer.lr" not in [o.partition("=")[0] for o in overrides("lr_too_high", {"model": "mlp"}, {})]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_first_override_composes(family):
    base = [f"model={family}", "model.depth=3", "model.width=8", *FAMILIES[family]]
    choices = compose(base).choices
    tried = {overrides(kind, choices)[0] for kind in KINDS if overrides(kind, choices)}
    assert len(tried) > 3
    for override in tried:
        clip = ["clip=norm"] if override.startswith("clip.") else []
        composition = compose([*base, *clip, *shlex.split(override)])
        assert build(composition.config).network is not None, override
