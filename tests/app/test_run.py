"""Whole runs from the command line: what they leave, how they resume, how they stop."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from stabletrain.app.cli import main
from stabletrain.record.reader import load_record

SMALL = ["model=rnn", "clip=norm", "logger=none", "model.width=16"]
CONTRACT = {"config.yaml", "tensorboard", "checkpoints", "findings.json", "summary.json", "report.html"}
SUMMARY = {
    "status",
    "verdict",
    "metrics",
    "steps",
    "seconds",
    "watch_overhead",
    "checkpoint_overhead",
    "mlflow_run_id",
    "mlflow_tracking_uri",
    "mlflow_url",
    "resumed_from",
}
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
]


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def summary_of(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


def spawn(folder: Path, *overrides: str, **environment: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "stabletrain", *overrides]
    root = str(Path(__file__).parents[2])
    env = {**os.environ, "PYTHONPATH": root, **environment}
    out = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(command, cwd=folder, env=env, text=True, preexec_fn=listen_to_interrupts, **out)


def listen_to_interrupts() -> None:
    """Listen to SIGINT, which children ignore if a shell runs the tests in the background."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_a_run_leaves_exactly_the_contracts_table(here, capsys):
    assert main([*SMALL, "output_dir=mine", "trainer.max_epochs=2"]) == 0
    folder = here / "mine"
    assert {p.name for p in folder.iterdir()} == CONTRACT
    assert {p.name for p in here.iterdir()} == {"mine"}
    names = {p.name for p in (folder / "checkpoints").iterdir()}
    assert names == {"last.ckpt", "best.ckpt", "last.json", "best.json"}
    summary = summary_of(folder)
    assert set(summary) == SUMMARY
    assert (summary["status"], summary["verdict"], summary["steps"]) == ("finished", "healthy", 78)
    assert json.loads((folder / "findings.json").read_text()) == []
    assert "verdict: healthy" in capsys.readouterr().out
    for name in ("last", "best"):
        checkpoint = torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)
        assert "network.rnn.weight_hh_l0" in checkpoint["state_dict"]
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert (config["model"]["width"], config["clip"]["max_norm"]) == (16, 1.0)


def test_histograms_add_up_to_the_layers_sizes(here):
    assert main([*SMALL, "output_dir=mine", "trainer.max_epochs=2", "watch=every_step"]) == 0
    record = load_record(here / "mine")
    weights = torch.load(here / "mine/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    sizes = {k.removeprefix("network."): v.numel() for k, v in weights.items() if k.startswith("network.")}
    assert {layer.partition(".")[2] for layer in record.layers} == set(sizes)
    for layer, by_step in record.histograms.items():
        assert sorted(by_step) == list(range(78))
        assert {h.size for h in by_step.values()} == {sizes[layer.partition(".")[2]]}
    assert record.layers[0].startswith("L00.rnn.weight_ih")
    assert record.layers[-1] == "L05.head.bias"


def test_default_folders_never_collide(here):
    for _ in range(2):
        assert main([*SMALL, "trainer=debug", "trainer.max_steps=2"]) == 0
    assert len(list((here / "runs").iterdir())) == 2


def test_resume_goes_on_where_the_run_was(here):
    straight = [*SMALL, "output_dir=straight", "trainer.max_epochs=4"]
    assert main(straight) == 0
    assert main([*SMALL, "output_dir=halves", "trainer.max_epochs=2"]) == 0
    first = load_record(here / "halves").info["run_uid"]
    assert main([*SMALL, "output_dir=halves", "trainer.max_epochs=4", "resume=auto"]) == 0
    whole, halves = load_record(here / "straight"), load_record(here / "halves")
    assert halves.info["run_uid"] == first
    assert halves.scalars["train/loss"].steps == whole.scalars["train/loss"].steps
    assert halves.scalars["train/loss"].values == whole.scalars["train/loss"].values
    assert halves.scalars["clip/fraction"].values == whole.scalars["clip/fraction"].values
    assert summary_of(here / "halves")["steps"] == summary_of(here / "straight")["steps"] == 156
    assert summary_of(here / "halves")["resumed_from"] == str(here / "halves")
    ours, theirs = (
        torch.load(here / f / "checkpoints/last.ckpt", weights_only=True)["state_dict"] for f in ("straight", "halves")
    )
    assert all(ours[k].equal(theirs[k]) for k in ours if k.startswith("network."))


def test_resume_from_another_run_starts_from_its_weights(here):
    assert main([*SMALL, "output_dir=one", "trainer.max_epochs=1"]) == 0
    assert main([*SMALL, "output_dir=two", "trainer.max_epochs=2", "resume=one"]) == 0
    assert summary_of(here / "two")["resumed_from"] == str(here / "one")
    assert load_record(here / "two").scalars["train/loss"].steps[0] >= 39
    assert load_record(here / "two").info["run_uid"] != load_record(here / "one").info["run_uid"]


def test_resume_with_another_model_is_refused(here, capsys):
    assert main([*SMALL, "output_dir=one", "trainer.max_epochs=1"]) == 0
    before = (here / "one" / "summary.json").read_text()
    assert main([*SMALL, "output_dir=two", "model.width=17", "resume=one"]) == 2
    err = capsys.readouterr().err
    assert "another composition" in err
    assert "Traceback" not in err
    assert (here / "one" / "summary.json").read_text() == before


def test_a_run_that_explodes_stops_with_code_3(here, capsys):
    assert main(["experiment=exploding_time", "logger=none", "output_dir=mine"]) == 3
    (finding,) = [f for f in json.loads((here / "mine/findings.json").read_text()) if f["kind"] == "nonfinite"]
    assert finding["layer"] == "L00.rnn"
    assert finding["overrides"][0] == "clip=norm init=orthogonal"
    summary = summary_of(here / "mine")
    assert (summary["status"], summary["verdict"]) == ("stopped", "nonfinite")
    assert {p.name for p in (here / "mine").iterdir()} == {*CONTRACT, "offender"} - {"checkpoints"}  # its first epoch
    assert "verdict: nonfinite" in capsys.readouterr().out


def test_what_the_finding_proposes_mends_it(here):
    assert main(["experiment=exploding_time", "logger=none", "output_dir=mine", "clip=norm", "init=orthogonal"]) == 0
    summary = summary_of(here / "mine")
    assert summary["verdict"] == "healthy"
    assert summary["metrics"]["test/accuracy"] > 0.5


def test_a_nonfinite_run_is_found_even_with_the_watch_off(here):
    line = ["model=rnn", "activation=relu", "data.form=pixels", "init=normal", "init.std=0.3", "optimizer=sgd"]
    assert main([*line, "logger=none", "output_dir=mine", "watch=off"]) == 3
    assert not (here / "mine/checkpoints").exists()  # it stopped in its first epoch
    (finding,) = json.loads((here / "mine/findings.json").read_text())
    assert (finding["kind"], finding["layer"]) == ("nonfinite", "L00.rnn")  # found by running the step again


def test_a_vanishing_run_is_named_and_strict_says_so(here):
    line = ["experiment=vanishing_depth", "logger=none", "trainer.max_epochs=1"]
    assert main([*line, "output_dir=mine"]) == 0
    assert summary_of(here / "mine")["verdict"] == "vanishing"
    assert main([*line, "output_dir=strict", "doctor=strict"]) == 3
    assert main([*line, "output_dir=off", "doctor=off"]) == 0
    assert summary_of(here / "off")["verdict"] is None  # the doctor was off


def test_diagnose_and_report_read_the_record_again(here, capsys):
    assert main(["experiment=vanishing_depth", "logger=none", "trainer.max_epochs=1", "output_dir=mine"]) == 0
    findings, page = (here / "mine/findings.json").read_text(), here / "mine/report.html"
    (here / "mine/findings.json").unlink()
    page.unlink()
    assert main(["diagnose", "mine"]) == 0
    assert (here / "mine/findings.json").read_text() == findings
    assert main(["report", "mine"]) == 0
    assert "vanishing" in page.read_text()


def test_sigterm_saves_and_ends_with_143(here):
    process = spawn(here, *SMALL, "output_dir=mine", "trainer.max_epochs=500")
    deadline = time.monotonic() + 90
    while not (here / "mine/checkpoints/last.ckpt").is_file() and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 143, out
    assert "Traceback" not in out
    summary = summary_of(here / "mine")
    assert summary["status"] == "terminated"
    checkpoint = torch.load(here / "mine/checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == summary["steps"] > 0
    epochs = checkpoint["epoch"] + 2
    assert main([*SMALL, "output_dir=mine", f"trainer.max_epochs={epochs}", "resume=auto"]) == 0
    assert summary_of(here / "mine")["status"] == "finished"


def test_a_sweep_runs_every_combination(here):
    process = spawn(here, "-m", "logger=none", "trainer=debug", "trainer.max_steps=3", "init=default,he", "seed=0,1")
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0, out
    (sweep,) = (here / "runs").iterdir()
    runs = [p for p in sweep.iterdir() if p.is_dir()]
    chosen = {(load_record(p).info["choices"]["init"], load_record(p).info["parameters"]["seed"]) for p in runs}
    assert chosen == {("default", 0), ("default", 1), ("he", 0), ("he", 1)}


@pytest.mark.slow
def test_two_processes_give_the_losses_and_statistics_of_one(here):
    line = [*SMALL, "watch=every_step", "trainer.max_epochs=1"]
    one = spawn(here, *line, "trainer=cpu", "trainer.max_epochs=1", "output_dir=one", OMP_NUM_THREADS="1")
    assert one.wait(120) == 0, one.communicate()[0]
    two = spawn(here, *line, "trainer=ddp_cpu", "trainer.max_epochs=1", "output_dir=two", OMP_NUM_THREADS="1")
    assert two.wait(180) == 0, two.communicate()[0]
    for process in (one, two):
        process.stdout.close()
    assert {p.name for p in (here / "two").iterdir()} == CONTRACT
    assert len(list((here / "two/tensorboard").iterdir())) == 1
    single, double = load_record(here / "one"), load_record(here / "two")
    assert double.layers == single.layers
    for name in ("train/loss", "val/loss", "gradient/norm/total", "clip/norm_after"):
        assert double.scalars[name].steps == single.scalars[name].steps
        assert double.scalars[name].values == pytest.approx(single.scalars[name].values, rel=2e-4), name
    assert double.scalars["val/accuracy"].values == pytest.approx(single.scalars["val/accuracy"].values, abs=0.008)
    for layer, series in single.of_layers("gradient/rms").items():
        other = double.of_layers("gradient/rms")[layer]
        assert other.steps == series.steps
        assert other.values == pytest.approx(series.values, rel=2e-3), layer
        assert {h.size for h in double.histograms[layer].values()} == {
            h.size for h in single.histograms[layer].values()
        }


@pytest.mark.parametrize(
    ("change", "key"),
    [(["model.width=17"], "resume"), (["model=lstm"], "resume"), (["trainer.max_epochs=1"], "trainer.max_epochs")],
)
def test_a_refused_resume_leaves_a_finished_run_as_it_was(here, capsys, change, key):
    assert main([*SMALL, "output_dir=one", "trainer.max_epochs=2"]) == 0
    before = {p.name: p.read_bytes() for p in (here / "one").rglob("*") if p.is_file()}
    assert main([*SMALL, "output_dir=one", "trainer.max_epochs=2", "resume=auto", *change]) == 2
    assert f"key      {key}" in capsys.readouterr().err
    assert {p.name: p.read_bytes() for p in (here / "one").rglob("*") if p.is_file()} == before


def test_a_saved_configuration_of_a_resumed_run_starts_anew(here):
    assert main([*SMALL, "output_dir=one", "trainer.max_epochs=1"]) == 0
    assert main([*SMALL, "output_dir=one", "trainer.max_epochs=2", "resume=auto"]) == 0
    assert main(["--config", "one/config.yaml", "output_dir=two", "trainer.max_epochs=1"]) == 0
    assert load_record(here / "two").scalars["train/loss"].steps[:2] == [0, 9]


def test_a_run_without_an_end_ends_when_it_is_asked_to(here):
    process = spawn(here, *SMALL, "output_dir=mine", "trainer.max_epochs=-1")
    deadline = time.monotonic() + 90
    while not (here / "mine/checkpoints/last.ckpt").is_file() and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 143, out
    assert summary_of(here / "mine")["status"] == "terminated"


def test_a_reader_that_goes_away_does_not_end_the_run(here):
    process = spawn(here, *SMALL, "output_dir=mine", "trainer.max_epochs=3")
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(90) == 0
    assert summary_of(here / "mine")["status"] == "finished"


def test_a_class_of_ones_own_in_the_current_folder(here):
    (here / "mynet.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, num_inputs, num_outputs, hidden=8):\n"
        "        super().__init__()\n"
        "        self.net = nn.Sequential(nn.Linear(num_inputs, hidden), nn.ReLU(), nn.Linear(hidden, num_outputs))\n"
        "    def forward(self, x):\n"
        "        return self.net(x)\n"
    )
    words = [
        "model._target_=mynet.Net",
        "~model.depth",
        "~model.width",
        "~model.dropout",
        "~model.stochastic_depth",
        "+model.hidden=5",
    ]
    process = spawn(here, *words, "trainer=debug", "logger=none", "output_dir=mine")
    out, _ = process.communicate(timeout=90)
    assert process.returncode == 0, out
    assert load_record(here / "mine").layers[0] == "L00.net.0.weight"


@pytest.mark.slow
def test_a_folder_with_odd_characters(here):
    name = "my run ü=1"
    words = [*SMALL[:2], "trainer=debug", f'output_dir="{name}"']
    process = spawn(here, *words)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0, out
    assert summary_of(here / name)["mlflow_run_id"]
