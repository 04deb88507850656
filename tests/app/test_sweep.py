"""Sweeps: one folder with all children, one table, the worst exit code; a failing child does not stop the others."""

from __future__ import annotations

import json
import math

import pytest

from stabletrain.app.cli import main
from stabletrain.app.sweeps.sweep import differing, rows_of, table_lines
from stabletrain.app.sweeps.sweep_child import run_child
from stabletrain.record.reader import load_record
from stabletrain.record.sweep_folder import SweepFolder, folder_above, sweep_of

TINY = ["logger=none", "trainer=debug", "trainer.max_steps=2", "model.depth=2", "model.width=8"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def outcome(number, *overrides, code=0, verdict="healthy", accuracy=0.5, **error):
    metrics = {} if accuracy is None else {"val/accuracy": accuracy, "val/loss": 1.0}
    return {
        "number": number, "overrides": list(overrides), "exit_code": code, "verdict": verdict, "metrics": metrics,
        "seconds": 1.25, "error": error, "folder": str(number), "status": "finished",
    }  # fmt: skip


def test_children_lie_in_one_folder_and_the_table_says_what_differs(here, capsys):
    assert main(["-m", *TINY, "init=normal,he", "output_dir=mine", "seed=3"]) == 0
    assert sorted(p.name for p in (here / "mine").iterdir()) == ["0", "1", "multirun.yaml", "report.html", "sweep.json"]
    table = [line.split() for line in capsys.readouterr().out.splitlines()[-4:-1]]
    assert table[0][:4] == ["child", "differs", "in", "ended"]
    assert [row[:3] for row in table[1:3]] == [["0", "init=normal", "done"], ["1", "init=he", "done"]]
    info = load_record(here / "mine/1").info
    assert info["command"] == f"python -m stabletrain {' '.join([*TINY, 'init=he', 'seed=3'])}"
    children = json.loads((here / "mine/sweep.json").read_text())["children"]
    assert [c["exit_code"] for c in children] == [0, 0]
    assert math.isfinite(children[0]["metrics"]["val/loss"])


@pytest.mark.slow
def test_children_run_side_by_side(here, capfd):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    lines = ["init=normal,he", "output_dir=mine", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    assert main(["-m", *TINY, *lines]) == 0
    children = json.loads((here / "mine/sweep.json").read_text())["children"]
    assert [c["overrides"][-1] for c in children] == ["init=normal", "init=he"]
    assert len({c["pid"] for c in children}) == 2
    capfd.readouterr()


def test_children_that_are_refused_or_diverge_stop_no_other(here, capsys):
    lines = ["norm=none,group", "clip=none", "optimizer=sgd", "optimizer.lr=0.1,1e20", "output_dir=mine"]
    assert main(["-m", *TINY, "model.width=9", *lines]) == 3  # 9 units cannot be divided into 4 groups
    outcomes = {tuple(o["overrides"][-4:]): o for o in SweepFolder("mine").read_outcomes()}
    codes = {(k[0], k[3]): o["exit_code"] for k, o in outcomes.items()}
    assert codes == {
        ("norm=none", "optimizer.lr=0.1"): 0,
        ("norm=none", "optimizer.lr=1e+20"): 3,
        ("norm=group", "optimizer.lr=0.1"): 2,
        ("norm=group", "optimizer.lr=1e+20"): 2,
    }
    assert {p.name for p in (here / "mine").iterdir() if p.is_dir()} == {"0", "1"}
    out = capsys.readouterr().out
    assert "refused" in out
    assert "stopped" in out
    assert "norm.num_groups" in out


def test_of_a_sweep_that_is_refused_as_a_whole_nothing_is_left(here, capsys):
    assert main(["-m", *TINY, "model.width=9", "norm=group", "seed=0,1"]) == 2
    assert "num_groups" in capsys.readouterr().err
    assert main(["-m", *TINY, "seed=0,many"]) == 2
    assert main(["-m", *TINY, "output_dir=a,b"]) == 2
    assert "A sweep has one output_dir." in capsys.readouterr().err
    assert [p for p in here.rglob("*") if p.is_file()] == []


def test_a_folder_with_a_sweep_or_a_run_takes_no_other(here, capsys):
    assert main(["-m", *TINY, "seed=0", "output_dir=mine"]) == 0
    before = (here / "mine/sweep.json").read_bytes()
    assert main(["-m", *TINY, "seed=1", "output_dir=mine"]) == 2
    assert "already holds a sweep" in capsys.readouterr().err
    assert main(["-m", *TINY, "seed=1", "output_dir=mine/0"]) == 2
    assert "already holds a run" in capsys.readouterr().err
    assert (here / "mine/sweep.json").read_bytes() == before


def test_what_asks_one_child_to_stop_asks_all_that_follow_in_its_process(tmp_path):
    sweep = SweepFolder(tmp_path / "sweep")
    sweep.update(uid="x")
    codes = iter([0, 143, 0])
    trained = []

    def train(composition):
        trained.append(composition.config["seed"])
        return next(codes)

    outcomes = [run_child(sweep, number, [f"seed={number}"], train=train) for number in range(3)]
    assert [o["exit_code"] for o in outcomes] == [0, 143, 143]
    assert trained == [0, 1]
    stopped = json.loads((sweep.path / ".outcomes/1.json").read_text()) | {"pid": 0}
    sweep.write_outcome(stopped)
    sweep.write_outcome(outcomes[2] | {"pid": 0})  # in another process: a scheduler stopped that one alone
    assert run_child(sweep, 2, ["seed=2"], train=train)["exit_code"] == 0


def test_the_store_of_a_child_lies_beside_the_sweep(tmp_path):
    assert folder_above(tmp_path / "runs/one") == tmp_path / "runs"
    sweep = SweepFolder(tmp_path / "runs/sweep")
    sweep.path.mkdir(parents=True)
    assert sweep_of(sweep.child(0).path) is None
    sweep.update(uid="x")
    assert folder_above(sweep.child(0).path) == tmp_path / "runs"
    assert sweep_of(sweep.child(0).path).path == sweep.path


def test_the_table_names_what_differs_and_why_a_child_failed():
    outcomes = [
        outcome(0, "a=1", "b=1"),
        outcome(1, "a=1", "b=2", code=2, verdict=None, accuracy=None, problem="No such.", key="b", command="try b=1"),
    ]
    assert differing(outcomes) == [["b=1"], ["b=2"]]
    assert rows_of(outcomes)[1:] == [
        ("0", "b=1", "done", "healthy", "0.5", "1.2"),
        ("1", "b=2", "refused", "–", "–", "1.2"),
    ]
    lines = "\n".join(table_lines(outcomes))
    assert "No such. (b)" in lines
    assert "try b=1" in lines
    assert differing(outcomes[:1]) == [["a=1", "b=1"]]
