"""Composition: groups, precedence, `_target_` sections, and the types they may be."""

from __future__ import annotations

import inspect

import pytest
import yaml

from stabletrain.app.building.build import build
from stabletrain.app.composition.compose import _hydra_compose, compose, to_composition
from stabletrain.app.composition.override_text import write_override
from stabletrain.app.composition.overrides import parse_override
from stabletrain.app.composition.paths import find_config_dir, list_groups
from stabletrain.app.composition.schema import GROUPS
from stabletrain.app.composition.targets import bind, expected_types, make, resolve_target
from stabletrain.errors import RequestError

TARGET_GROUPS = ("model", "activation", "init", "norm", "residual", "clip", "optimizer", "schedule", "data", "trainer")


def test_every_group_has_at_least_three_options():
    assert {group: options for group, options in list_groups().items() if len(options) < 3} == {}
    assert set(list_groups()) == set(GROUPS)


def test_defaults():
    composition = compose()
    assert composition.choices["model"] == "mlp"
    assert composition.config["seed"] == 0
    assert composition.config["output_dir"] is None


def test_a_family_chooses_a_default_that_the_user_overrules():
    assert compose(["model=rnn"]).choices["activation"] == "tanh"
    assert compose(["model=rnn", "activation=elu"]).choices["activation"] == "elu"
    assert compose(["model=mlp"]).choices["activation"] == "relu"


def test_an_experiment_is_overruled_by_the_user():
    assert compose(["experiment=vanishing_depth"]).config["model"]["depth"] == 20
    overruled = compose(["experiment=vanishing_depth", "model.depth=3", "activation=relu"])
    assert overruled.config["model"]["depth"] == 3
    assert overruled.choices["activation"] == "relu"


def test_an_experiments_numbers_go_with_the_option_that_takes_them():
    assert compose(["experiment=exploding_time"]).config["init"]["std"] == 0.3
    other = compose(["experiment=exploding_time", "init=he"]).config["init"]
    assert other["_target_"].endswith("He")
    assert "std" not in other
    assert compose(["experiment=exploding_time", "init=normal", "init.std=0.4"]).config["init"]["std"] == 0.4
    assert compose(["experiment=exploding_time", "optimizer=adam"]).config["optimizer"]["lr"] == 0.03
    with pytest.raises(RequestError, match="no setting"):
        compose(["experiment=exploding_time", "init=he", "init.std=0.3"])


@pytest.mark.parametrize(
    "line",
    [
        "model=rnn model.width=3 trainer.max_epochs=2 seed=5",
        "model=rnn +trainer.limit_train_batches=2 ++seed=4",
        "clip=norm ~clip.max_norm watch.signals=[gradient,delta] run_name=null",
        "logger.mlflow.tracking_uri=http://localhost:1 output_dir=mine",
        "experiment=vanishing_depth model.depth=3 activation=relu",
        "experiment=exploding_time init=normal init.std=0.4",
        "seed=1 seed=2",
    ],
)
def test_values_are_set_as_hydra_sets_them(line):
    overrides = line.split()
    config = compose(overrides).config
    assert config == to_composition(_hydra_compose(overrides, [])).config
    assert config != compose([o for o in overrides if "." not in o and "seed" not in o]).config


def test_a_saved_configuration_composes_again(tmp_path):
    first = compose(["model=rnn", "clip=norm", "clip.max_norm=0.5", "seed=7"]).in_folder(tmp_path)
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(first.config))
    again = compose(saved=path)
    assert again.config == first.config | {"output_dir": None}
    assert again.choices == first.choices
    changed = compose(["clip=value", "seed=8", "model.width=5"], saved=path)
    assert changed.config["clip"] == compose(["clip=value"]).config["clip"]
    assert changed.choices["clip"] == "value"
    assert (changed.config["seed"], changed.config["model"]["width"]) == (8, 5)
    assert changed.config["model"]["_target_"] == "stabletrain.network.RNN"


@pytest.mark.parametrize(
    ("content", "overrides", "key"),
    [
        ("seed: abc", [], "seed"),
        ("nonsense: 1", [], "nonsense"),
        ("a: [1", [], "--config"),
        ("seed: 1", ["model.widht=3"], "model.widht"),
        ("seed: 1", ["model=rnnn"], "model"),
        ("seed: 1", ["seed=-1"], "seed"),
        (None, [], "--config"),
    ],
)
def test_a_saved_configuration_that_does_not_fit_is_refused(tmp_path, content, overrides, key):
    path = tmp_path / "config.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(RequestError) as error:
        compose(overrides, saved=path)
    assert error.value.key == key


def test_an_overlay_folder_adds_an_option(tmp_path):
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "mine.yaml").write_text("_target_: stabletrain.gradient.NormClip\nmax_norm: 0.25\n")
    assert compose(["clip=mine"], [tmp_path]).config["clip"]["max_norm"] == 0.25
    with pytest.raises(RequestError, match="no option"):
        compose(["clip=mine"])


@pytest.mark.parametrize(
    "path",
    [
        p
        for g in (*TARGET_GROUPS, "logger")
        for p in sorted((find_config_dir() / g).glob("*.yaml"))
        if p.stem != "custom"  # has no class until the user names one
    ],
    ids=lambda p: f"{p.parent.name}-{p.stem}",
)
def test_every_option_binds_to_its_target(path, tmp_path):
    """The signature is the schema: a key in a YAML that its class does not take fails here."""
    group, option = path.parent.name, path.stem
    section = compose([f"{group}={option}"]).in_folder(tmp_path).config[group]
    sections = section.values() if group == "logger" else [section]
    for each in sections:
        target = resolve_target(each["_target_"], group, expected_types(group), [])
        bind(target, {k: v for k, v in each.items() if k != "_target_"}, group)
        own = target.__module__.startswith("stabletrain.")
        kinds = [p.kind for p in inspect.signature(target).parameters.values()]
        assert not own or inspect.Parameter.VAR_KEYWORD not in kinds
        assert not own or len(kinds) <= 10


@pytest.mark.parametrize("option", list_groups()["experiment"])
def test_every_experiment_builds(option):
    assert build(compose([f"experiment={option}"]).config).network is not None


def test_every_option_file_says_where_it_comes_from():
    for path in find_config_dir().glob("*/*.yaml"):
        lines = path.read_text().splitlines()
        assert any(line.startswith("# ") and "@package" not in line for line in lines[:2]), path


def test_the_resolved_configuration_is_plain():
    config = compose(["model=lstm", "schedule=warmup_cosine"]).config
    assert yaml.safe_load(yaml.safe_dump(config)) == config


def test_seed_zero_counts_and_another_seed_differs():
    def first_weight(seed: int):
        return next(build(compose([f"seed={seed}"]).config).network.parameters()).detach()

    assert first_weight(0).equal(first_weight(0))
    assert not first_weight(0).equal(first_weight(1))


def test_a_function_needs_leave():
    section = {"_target_": "stabletrain.network.second_moment_gain"}
    with pytest.raises(RequestError, match="expects"):
        make(section, "model")
    assert callable(make({"_target_": "stabletrain.network.second_moment_gain"}, "model", ["stabletrain.network"]))


@pytest.mark.parametrize("nested", [{"x": {"_target_": "os.system"}}, {"x": [{"_target_": "os.system"}]}])
def test_a_nested_target_is_held_to_the_same_rule(nested):
    section = {"_target_": "torch.nn.Linear", "in_features": 1, "out_features": nested}
    with pytest.raises(RequestError, match="not what"):
        make(section, "model")


@pytest.mark.parametrize(
    ("form", "model", "shape"),
    [
        ("auto", "mlp", (64,)),
        ("auto", "rnn", (8, 8)),
        ("pixels", "gru", (64, 1)),
        ("rows", "lstm", (8, 8)),
    ],
)
def test_each_family_receives_digits_in_its_own_form(form, model, shape):
    built = build(compose([f"model={model}", f"data.form={form}"]).config)
    x, _ = built.data.train[0]
    assert tuple(x.shape) == shape
    assert tuple(built.network(x[None]).shape) == (1, 10)


@pytest.mark.parametrize("value", ["rnn", "1e-3", "runs/x-1", "petal length (cm)", 'a "b" \\c', "a,b", "{x}", "", "é"])
def test_a_proposed_override_says_what_it_means(value):
    meant = 1e-3 if value == "1e-3" else value
    assert parse_override(write_override("key", value)).value() == meant


def test_a_file_is_the_same_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    composition = compose(["data=table", "data.path=x.csv", "data.target=y"]).in_folder(tmp_path / "run")
    assert composition.config["data"]["path"] == str(tmp_path / "x.csv")
