"""Remedies: what is proposed exists, is new, fits together, and builds."""

from __future__ import annotations

import itertools

import pytest

from stabletrain.app.build import build
from stabletrain.app.compose import compose
from stabletrain.app.overrides import list_groups
from stabletrain.diagnosis.finding import KINDS
from stabletrain.diagnosis.remedies import ADVICE, advise

GROUPS = list_groups()
CHOSEN = ("model", "activation", "init", "norm", "residual", "clip")


def all_choices():
    """Yield every choice of the groups that the remedies speak of, but for clip and residual: those in turn."""
    others = itertools.cycle(itertools.product(GROUPS["residual"], GROUPS["clip"]))
    for model, activation, init, norm in itertools.product(*(GROUPS[group] for group in CHOSEN[:4])):
        yield dict(zip(CHOSEN, (model, activation, init, norm, *next(others)), strict=True))


@pytest.mark.parametrize("kind", sorted(ADVICE))
def test_every_proposal_exists_and_is_new(kind):
    for choices in all_choices():
        overrides = advise(kind, choices)["overrides"]
        keys = [override.partition("=")[0] for override in overrides]
        assert len(set(keys)) == len(keys), overrides  # two options of one group would shut each other out
        for override in overrides:
            key, _, value = override.partition("=")
            assert key == "optimizer.lr" or value in GROUPS[key], override
            assert choices.get(key) != value, override


def test_a_model_of_ones_own_gets_no_parts_proposed():
    for kind in ADVICE:
        proposed = advise(kind, {"model": "custom", "norm": "none", "residual": "none", "activation": "sigmoid"})
        assert {o.partition("=")[0] for o in proposed["overrides"]} <= {"clip", "init", "optimizer.lr"}


def test_no_choices_no_overrides():
    assert all(advise(kind, {})["overrides"] == [] for kind in ADVICE)
    assert set(ADVICE) <= set(KINDS)


@pytest.mark.parametrize(
    ("kind", "choices", "overrides"),
    [
        (
            "vanishing",
            {"model": "mlp", "activation": "sigmoid", "init": "normal"},
            ["activation=relu", "init=he", "norm=layer", "residual=add"],
        ),
        ("vanishing", {"model": "mlp", "activation": "relu", "init": "he"}, ["norm=layer", "residual=add"]),
        ("vanishing", {"model": "rnn", "activation": "tanh"}, ["model=lstm", "init=orthogonal", "norm=layer"]),
        ("vanishing", {"model": "rnn", "init": "orthogonal", "norm": "layer"}, ["model=lstm"]),
        ("vanishing", {"model": "lstm", "activation": "tanh"}, ["init=orthogonal", "norm=layer"]),
        ("vanishing", {"model": "gru", "activation": "tanh"}, ["init=orthogonal", "norm=layer"]),
        ("exploding", {"model": "mlp", "clip": "none"}, ["clip=norm", "init=orthogonal", "norm=layer"]),
        ("exploding", {"model": "mlp", "clip": "norm", "norm": "layer"}, ["init=orthogonal"]),
        ("nonfinite", {"model": "mlp", "clip": "norm"}, ["optimizer.lr=0.0001", "norm=layer"]),
    ],
)
def test_remedies_in_their_order(kind, choices, overrides):
    assert advise(kind, choices)["overrides"] == overrides


@pytest.mark.parametrize(("now", "proposed"), [(0.1, 0.01), (1e-3, 1e-4), (1e-4, 1e-5), (3e-7, 3e-8), (None, 1e-4)])
def test_the_learning_rate_proposed_is_a_tenth_of_what_it_is(now, proposed):
    (override,) = [o for o in advise("nonfinite", {"model": "mlp"}, now)["overrides"] if o.startswith("optimizer.lr=")]
    assert float(override.partition("=")[2]) == pytest.approx(proposed)


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*")
@pytest.mark.parametrize("kind", sorted(ADVICE))
@pytest.mark.parametrize("model", sorted({*GROUPS["model"]} - {"custom"}))
def test_all_that_is_proposed_builds_together(kind, model):
    small = (f"model={model}", "model.width=8")
    choices = compose(small).choices
    proposed = advise(kind, choices, 1e-3)["overrides"]
    config = compose([*(o for o in small if o not in proposed), *proposed]).config
    assert build(config).network is not None
