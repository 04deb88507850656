"""Search: trials are children of one sweep; a diverged trial counts as the worst, and finished trials are kept."""

from __future__ import annotations

import json
import math
import sys
from types import SimpleNamespace

import optuna
import pytest

from stabletrain.app.cli import main
from stabletrain.app.composition.compose import compose
from stabletrain.app.composition.paths import list_groups
from stabletrain.app.sweeps.search import worth_of
from stabletrain.app.sweeps.search_space import Parameter, check_space, read_space
from stabletrain.errors import RequestError
from stabletrain.record.reader import load_record
from stabletrain.training.callbacks.pruning import PruneTrial

TINY = ["logger=none", "trainer=debug", "trainer.max_steps=2", "model.depth=2", "model.width=8"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def found(folder):
    return json.loads((folder / "search.json").read_text())


@pytest.mark.parametrize("option", list_groups()["search"])
def test_every_space_that_ships_composes_at_its_corners(option):
    config = compose([f"search={option}", "model=rnn"]).config["search"]
    assert config["metric"] == "val/loss"
    check_space(read_space(config["parameters"]), [*config["overrides"], "model=rnn"])


def test_without_a_search_there_is_none():
    assert compose([]).config["search"] is None


def test_the_best_trial_is_the_one_with_the_smallest_loss_and_reruns_to_it(here, capsys):
    assert main(["search=lr", *TINY, "search.num_trials=3", "output_dir=mine"]) == 0
    about, sweep = found(here / "mine"), json.loads((here / "mine/sweep.json").read_text())
    losses = {c["number"]: c["metrics"]["val/loss"] for c in sweep["children"]}
    assert [t["value"] for t in about["trials"]] == [losses[i] for i in range(3)]
    assert about["best"]["value"] == min(losses.values())
    assert about["command"] in capsys.readouterr().out
    assert main([*about["overrides"], "output_dir=again"]) == 0
    again = json.loads((here / "again/summary.json").read_text())["metrics"]["val/loss"]
    assert again == about["best"]["value"]
    assert load_record(here / "mine/0").info["overrides"][:-1] == about["overrides"][:-1]


def test_a_trial_that_diverges_is_the_worst_and_no_crash(here):
    (here / "own/search").mkdir(parents=True)
    (here / "own/search/two.yaml").write_text("parameters: {optimizer: {lr: {choices: [0.1, 1.0e+20]}}}\n")
    lines = ["--config-dir=own", "search=two", "optimizer=sgd", "search.num_trials=6", "output_dir=mine"]
    assert main([*lines, *TINY]) == 0
    states = {(t["parameters"]["optimizer.lr"], t["state"]) for t in found(here / "mine")["trials"]}
    assert states == {(0.1, "complete"), (1e20, "diverged")}
    assert found(here / "mine")["best"]["parameters"] == {"optimizer.lr": 0.1}


def test_a_search_goes_on_from_its_storage(here, capsys):
    line = ["search=lr", *TINY, "search.storage=sqlite:///search.db"]
    assert main([*line, "search.num_trials=2", "output_dir=first"]) == 0
    assert main([*line, "search.num_trials=3", "output_dir=second"]) == 0
    trials = found(here / "second")["trials"]
    assert [t["number"] for t in trials] == [0, 1, 2]
    assert len({t["parameters"]["optimizer.lr"] for t in trials}) == 3
    assert sorted(p.name for p in (here / "second").iterdir() if p.is_dir()) == ["2"]
    assert main([*line, "search.num_trials=2", "output_dir=third", "model.width=9"]) == 0  # another study
    assert len(found(here / "third")["trials"]) == 2


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (["search=clip", "search.parameters.clip.max_norm.low=200"], "search.parameters.clip.max_norm.low"),
        (["search=clip", "search.parameters.clip.max_norm.low=0"], "search.parameters.clip.max_norm.low"),
        (["search=clip", "search.parameters.clip.max_norm.high=no"], "search.parameters.clip.max_norm.high"),
        (["search=lr", "search.num_trials=0"], "search.num_trials"),
        (["search=lr", "search.direction=up"], "search.direction"),
        (["search=lr", "search.pruner=hard"], "search.pruner"),
        (["search=lr", "search.trials=3"], "search.trials"),
        (["search=rl"], "search"),
        (["search=init", "search.parameters.init.choices=[he,hee]"], "init"),
        (["search=init", "search.parameters.init.choices=[]"], "search.parameters.init.choices"),
        (["search=lr", "+search.parameters.model.widht.choices=[1]"], "model.widht"),
        (["search=lr", "+search.parameters.seed.lowest=1"], "search.parameters.seed.lowest"),
        (["search=lr", "search.storage=nowhere"], "search.storage"),
        (["search=lr", "model.width=9", "norm=group"], "norm.num_groups"),
        (["-m", "search=lr", "seed=0,1"], "search"),
    ],
)
def test_a_search_that_cannot_be_done_is_refused_and_leaves_nothing(here, capsys, words, key):
    assert main([*words, *TINY[:3]]) == 2
    text = capsys.readouterr().err
    assert f"key      {key}\n" in text
    assert "Traceback" not in text
    assert [p for p in here.rglob("*") if p.is_file()] == []


def test_without_optuna_the_message_says_how_it_comes(here, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert main(["search=lr"]) == 2
    assert "  fix      python -m pip install 'stabletrain[search]'\n" in capsys.readouterr().err
    assert [p for p in here.rglob("*") if p.is_file()] == []


def test_a_search_into_a_folder_that_is_taken_makes_no_storage(here, capsys):
    (here / "taken").mkdir()
    (here / "taken/sweep.json").write_text("{}")
    assert main(["search=lr", *TINY, "output_dir=taken", "search.storage=sqlite:///search.db"]) == 2
    assert "already holds a sweep" in capsys.readouterr().err
    assert sorted(p.name for p in here.iterdir()) == ["taken"]


def test_a_range_is_drawn_as_it_says():
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)).ask()
    (number,) = read_space({"model": {"depth": {"low": 2, "high": 9}}})
    assert number == Parameter("model.depth", low=2, high=9)
    assert isinstance(number.suggest(trial), int)
    (rate,) = read_space({"optimizer": {"lr": {"low": 1e-4, "high": 1.0, "log": True}}})
    drawn = [rate.suggest(optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=i)).ask()) for i in range(40)]
    assert all(1e-4 <= x <= 1 for x in drawn)
    assert 8 <= sum(x < 1e-2 for x in drawn) <= 32  # half of them, on a logarithmic scale
    with pytest.raises(RequestError, match="no parameters"):
        read_space({})


def test_what_a_trial_is_worth():
    def outcome(code, **metrics):
        return {"exit_code": code, "metrics": metrics}

    assert worth_of(outcome(0, loss=0.5), "loss", "minimize") == 0.5
    assert worth_of(outcome(3, loss=0.5), "loss", "minimize") == math.inf
    assert worth_of(outcome(3), "loss", "maximize") == -math.inf
    assert worth_of(outcome(0, loss=math.nan), "loss", "minimize") == math.inf
    assert worth_of(outcome(1, loss=0.5), "loss", "minimize") is None
    assert worth_of(outcome(0), "loss", "minimize") is None


class FakeTrial:
    def __init__(self, worst):
        self.worst, self.seen = worst, []

    def report(self, value, step):
        self.seen.append((value, step))

    def should_prune(self):
        return self.seen[-1][0] > self.worst


@pytest.mark.parametrize(("worst", "pruned"), [(0.4, True), (0.6, False)])
def test_a_trial_that_is_pruned_ends(worst, pruned):
    trainer = SimpleNamespace(
        callback_metrics={"val/loss": 0.5}, current_epoch=3, sanity_checking=False, should_stop=False
    )
    callback = PruneTrial(FakeTrial(worst), "val/loss")
    callback.on_validation_end(trainer, None)
    assert callback.trial.seen == [(0.5, 3)]
    assert (callback.pruned, trainer.should_stop) == (pruned, pruned)
