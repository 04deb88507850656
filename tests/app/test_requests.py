"""Every wrong request ends with exit code 2 and an explanation, and leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from stabletrain.app.cli import main
from stabletrain.app.composition.compose import compose

# command line, key at fault, what was found, part of what is allowed, part of the command that fixes it
WRONG = [
    ("model=rnnn", "model", "rnnn", "gru, lstm, mlp, resnet, rnn, transformer", "model=rnn"),
    ("model=null", "model", "null", "gru, lstm, mlp, resnet, rnn, transformer", "model="),
    ("model", "command", "model", "train", "model="),
    ("modle=rnn", "modle", "modle=rnn", "model", "model=rnn"),
    ("experiment=nothing", "experiment", "nothing", "vanishing_depth", "python -m stabletrain"),
    ("diagnos", "command", "diagnos", "diagnose", "stabletrain diagnose"),
    ("diagnose", "RUN_DIR", "nothing", "output_dir", "diagnose runs/"),
    ("-m model=rnn,foo", "model", "foo", "gru, lstm, mlp, resnet, rnn, transformer", "-m model="),
    ("-m model.depth=0,-1 logger=none", "model.depth", "0", "from 1", ""),
    ("-m trainer=ddp_cpu logger=none", "trainer", "ddp_cpu", "one process per job", "-m trainer=cpu"),
    ("model=RNN", "model", "RNN", "rnn", "model=rnn"),
    ("data=adding data.length=1", "data.length", "data.length=1", "data.num_steps", "--cfg job"),
    ("residual=scaled residual.scale=1", "residual.scale", "residual.scale=1", "residual.factor", "--cfg job"),
    ("output_dir=", "output_dir", "''", "not empty", "--help"),
    ("model._target_=torch.nn.Linear", "model.depth", "4", "in_features", "'~model.depth' '~model.width'"),
    ("+optimizer.betas=[0.9]", "optimizer", "betas", "documentation", "--help"),
    ("trainer.accelerator=tpu", "trainer", "tpu", "documentation", "--help"),
    ("activation=gelu activation.approximate=foo", "model", "inputs of shape", "parts fit", "--help"),
    ("logger.mlflow.tracking_uri=3", "logger.mlflow.tracking_uri", "3", "http", "tracking_uri=http"),
    ("diagnose nowhere", "RUN_DIR", "nowhere", "folder", "--help"),
    ("sync nowhere", "RUN_DIR", "nowhere", "folder", "--help"),
    ("--foo", "--foo", "--foo", "--config-dir", "--help"),
    ("--cfg", "--cfg", "nothing", "--cfg VALUE", "--help"),
    ("--cfg all", "--cfg", "all", "job", ""),
    ("--config-dir nowhere", "--config-dir", "nowhere", "an existing folder", "--help"),
    ("model.widht=3", "model.widht", "model.widht=3", "model.width", "model.width=3"),
    ("watch.foo=1", "watch.foo", "watch.foo=1", "watch.statistics_every", "--cfg job"),
    ("+watch.foo=1", "watch.foo", "+watch.foo=1", "watch.statistics_every", "--cfg job"),
    ("+foo=1", "foo", "+foo=1", "model", "--cfg job"),
    ("+model.foo=1", "model.foo", "1", "depth, width", "python -m stabletrain"),
    ("clip.max_norm=1", "clip.max_norm", "clip.max_norm=1", "nothing", "clip=norm clip.max_norm=1"),
    ("model=[1", "model", "model=[1", "key=value", "--help"),
    ("model=rnn,lstm", "model", "model=rnn,lstm", "-m", "model=rnn,lstm -m"),
    ("~model", "model", None, None, "--help"),
    ("model.width=abc", "model.width", "abc", "an integer", "model.width=64"),
    ("model.depth=2.5", "model.depth", "2.5", "an integer", "model.depth=4"),
    ("model.depth=null", "model.depth", "null", "an integer", "model.depth=4"),
    ("model.width=-3", "model.width", "-3", "an integer from 1", "model.width=64"),
    ("model.dropout=1.5", "model.dropout", "1.5", "below 1", "model.dropout=0.0"),
    ("watch.statistics_every=abc", "watch.statistics_every", "abc", "an integer", "watch.statistics_every=10"),
    ("watch.statistics_every=-1", "watch.statistics_every", "-1", "from 0", "watch.statistics_every=10"),
    ("seed=-1", "seed", "-1", "from 0 up to 4294967295", "seed=0"),
    ("seed=null", "seed", "null", "not null", "seed=0"),
    ("experiment_name=", "experiment_name", "''", "a text", "experiment_name=stabletrain"),
    ("doctor.fail_on=panic", "doctor.fail_on", "panic", "warning, critical", ""),
    ("optimizer.lr=-1", "optimizer.lr", "-1", "above 0", "optimizer.lr=0.001"),
    ("optimizer.lr=abc", "optimizer.lr", "abc", "a number", "optimizer.lr=0.001"),
    ("optimizer.lr=nan", "optimizer.lr", "nan", "a number", "optimizer.lr=0.001"),
    ("clip=norm clip.max_norm=-1", "clip.max_norm", "-1", "above 0", "clip=norm clip.max_norm=1.0"),
    ("data.batch_size=0", "data.batch_size", "0", "from 1", "data.batch_size=32"),
    ("data.batch_size=100000", "data.batch_size", "100000", "", "data.batch_size=32"),
    ("data.val_fraction=2", "data.val_fraction", "2", "below 1", "data.val_fraction=0.15"),
    ("data.form=image", "data.form", "image", "vector", "data.form=auto"),
    ("model=rnn data.form=vector", "data.form", "vector", "sequence", "model=rnn data.form=auto"),
    ("trainer.max_epochs=-5", "trainer.max_epochs", "-5", "from 1, or -1", "trainer.max_epochs=30"),
    ("trainer.max_epochs=0", "trainer.max_epochs", "0", "from 1, or -1", "trainer.max_epochs=30"),
    ("trainer.max_steps=0", "trainer.max_steps", "0", "from 1, or -1", "trainer.max_steps=-1"),
    ("trainer.devices=0", "trainer.devices", "0", "from 1", "trainer.devices=1"),
    ("trainer.accelerator=foo", "trainer.accelerator", "foo", "cpu", "trainer.accelerator=auto"),
    ("trainer.gradient_clip_val=1", "trainer.gradient_clip_val", "1", "null", "clip=norm clip.max_norm=1"),
    ("trainer=ddp_cpu data.batch_size=33", "data.batch_size", "33", "multiple of 2", "data.batch_size=32"),
    ("resume=nowhere", "resume", "nowhere", "auto, or the folder", "resume="),
    ("resume=auto", "output_dir", "null", "folder", "resume=auto output_dir="),
    ("output_dir=/proc/x", "output_dir", "/proc/x", "write", "output_dir=runs/"),
    ("logger.mlflow.tracking_uri=foo://x", "logger.mlflow.tracking_uri", "foo://x", "http", "tracking_uri=http"),
    ("optimizer._target_=os.system", "optimizer._target_", "os.system", "Optimizer", "torch.optim.Adam"),
    ("model._target_=os.system", "model._target_", "os.system", "Module", "stabletrain.network.MLP"),
    ("model._target_=torch.optim.SGD", "model._target_", "torch.optim.SGD", "Module", "stabletrain.network.MLP"),
    ("model._target_=no.such.Net", "model._target_", "no.such.Net", "Module", "stabletrain.network.MLP"),
    ("model._target_=torch.nn.modules.os.system", "model._target_", "os.system", "Module", "stabletrain.network.MLP"),
    ("data=table data.path=missing.csv data.target=y", "data.path", "missing.csv", "CSV", ""),
]


@pytest.mark.parametrize("case", WRONG, ids=[w[0] for w in WRONG])
def test_a_wrong_request_is_explained(case, tmp_path, monkeypatch, capsys):
    line, key, found, allowed, command = case
    monkeypatch.chdir(tmp_path)
    assert main(line.split()) == 2
    out, err = capsys.readouterr()
    parts = {words[0]: " ".join(words[1:]) for row in err.splitlines()[1:] if (words := row.split())}
    assert err.startswith("stabletrain: ")
    assert "Traceback" not in err + out
    assert parts["key"] == key
    if found is not None:
        assert found in parts["found"]
    if allowed is not None:
        assert allowed in parts["allowed"]
    assert command in parts["fix"]
    left = [p.name for p in tmp_path.iterdir()]
    assert left == (["runs"] if left and line.startswith("-m") else [])  # Hydra's own record of the sweep
    check_fix(" ".join(err.rpartition("  fix ")[2].split()))


def check_fix(line: str) -> None:
    """Check that the proposed line, typed as it stands, composes."""
    overrides = line.removeprefix("python -m stabletrain").split()
    if all("=" in word and "…" not in word for word in overrides):
        assert compose(overrides).config


def test_no_gpu_is_explained(tmp_path, monkeypatch, capsys):
    import torch

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert main(["trainer=gpu"]) == 2
    err = capsys.readouterr().err
    assert "no GPU" in err
    assert "python -m stabletrain trainer=auto" in err


def test_an_occupied_folder_is_not_overwritten(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.yaml").write_text("seed: 7\n")
    assert main(["output_dir=mine"]) == 2
    assert "resume=auto" in capsys.readouterr().err
    assert (tmp_path / "mine" / "config.yaml").read_text() == "seed: 7\n"


@pytest.mark.parametrize("words", [["--help"], ["ui", "--help"], ["--cfg", "job"]])
def test_nobody_reads_on(words):
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "stabletrain", *words]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


def test_another_pipe_that_broke_is_not_taken_for_the_output(monkeypatch):
    def fail(request):
        raise BrokenPipeError("a worker's")

    monkeypatch.setattr("stabletrain.app.cli._run", fail)
    with pytest.raises(BrokenPipeError, match="a worker's"):
        main(["--help"])
