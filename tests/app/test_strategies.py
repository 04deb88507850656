"""Two gloo processes under DDP and FSDP2 match one: metrics, clipping, checkpoints, resuming, stopping."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from compare_runs import assert_same_checkpoint, assert_same_record
from two_processes import run_together

from stabletrain.app.cli import main
from stabletrain.record.reader import load_record

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*srun.*"),
]
SIGNALS = "watch.signals=[gradient,activation,delta,weight,update,moment,clip]"
SMALL = ["logger=none", "model.width=12", "model.depth=2", "data.batch_size=256", "trainer.accelerator=cpu"]
SMALL += ["trainer.log_every_n_steps=1"]
RUN = [
    *SMALL,
    "clip=norm",
    "clip.max_norm=0.1",
    "optimizer=adamw",
    "watch=every_step",
    SIGNALS,
    "watch.signals_every=1",
]
KINDS = ("ddp", "fsdp", "fsdp_root")
OWN = ["model=custom", "model._target_=strategy_parts.Own", "~model.width", "~model.depth"]
BAD = ["trainer.max_epochs=1", "+model.bad_batch=2"]


def on_two(kind, folder, *more):
    strategy = ["trainer=fsdp", "trainer.strategy=fsdp_root"] if kind == "fsdp_root" else [f"trainer={kind}"]
    return [*strategy, f"output_dir={folder}", *more]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """Runs of one and of two processes over two epochs, resumed ones, and one with a NaN in a single process."""
    torch.set_num_threads(1)
    folder, here = tmp_path_factory.mktemp("strategies"), Path.cwd()
    two_epochs, one_epoch = "trainer.max_epochs=2", "trainer.max_epochs=1"
    os.chdir(folder)
    try:
        assert main([*RUN, "trainer=cpu", "output_dir=one", two_epochs]) == 0
        assert main([*RUN, "trainer=cpu", "output_dir=first", one_epoch]) == 0
        assert main([*SMALL, *OWN, "trainer=cpu", "output_dir=own", one_epoch]) == 0
        lines = [on_two(kind, kind, *RUN, two_epochs) for kind in KINDS]
        lines += [on_two("fsdp", "half", *RUN, one_epoch), on_two("ddp", "half", *RUN, two_epochs, "resume=auto")]
        lines += [on_two("fsdp", "rest", *RUN, two_epochs, "resume=first")]
        lines += [on_two("ddp", "third", *RUN, one_epoch), on_two("ddp", "own_ddp", *SMALL, *OWN, one_epoch)]
        lines += [on_two(kind, f"bad_{kind}", *SMALL, *OWN, *BAD) for kind in ("ddp", "fsdp")]
        outcomes = run_together(folder, lines)
        assert main([*RUN, "trainer=cpu", "output_dir=back", two_epochs, "resume=third"]) == 0
    finally:
        os.chdir(here)
    (folder / "outcomes.json").write_text(json.dumps(outcomes))
    return folder


@pytest.fixture(scope="module")
def codes(runs):
    return [outcome["codes"] for outcome in json.loads((runs / "outcomes.json").read_text())]


def test_both_processes_end_alike(codes):
    assert codes[:-2] == [[0, 0]] * (len(codes) - 2)
    assert codes[-2:] == [[3, 3], [3, 3]]  # NaN in one of them stops both


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_see_what_one_sees(runs, codes, kind):
    assert load_record(runs / "one").scalars["clip/fraction"].values[-1] > 0.5  # the clip acts
    assert_same_record(runs / kind, runs / "one")
    assert len(list((runs / kind / "tensorboard").iterdir())) == 1


def test_the_loss_of_your_own_module_is_that_of_the_whole_batch(runs, codes):
    found, expected = (load_record(runs / name).scalars["train/loss"] for name in ("own_ddp", "own"))
    assert list(found.steps) == list(expected.steps)
    np.testing.assert_allclose(found.values, expected.values, rtol=2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_is_that_of_one_process(runs, codes, kind):
    assert_same_checkpoint(runs / kind, runs / "one")
    found, expected = (json.loads((runs / name / "summary.json").read_text()) for name in (kind, "one"))
    assert found["metrics"]["test/loss"] == pytest.approx(expected["metrics"]["test/loss"], abs=1e-5)


@pytest.mark.parametrize("way", ["half", "rest", "back"])  # fsdp to ddp, one to fsdp, ddp to one
def test_a_run_goes_on_under_another_strategy(runs, codes, way):
    assert_same_checkpoint(runs / way, runs / "one")
    with pytest.raises(AssertionError):
        assert_same_checkpoint(runs / "first", runs / "one")  # the control: one epoch is not two


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_a_bad_number_in_one_process_stops_before_the_step(runs, codes, kind):
    summary = json.loads((runs / f"bad_{kind}" / "summary.json").read_text())
    assert (summary["status"], summary["steps"]) == ("stopped", 2)


def test_each_process_tells_what_it_asks_of_its_machine(runs, codes):
    scalars = load_record(runs / "fsdp").scalars
    for rank in (0, 1):
        assert scalars[f"system/memory_usage_megabytes/rank{rank}"].values[-1] > 10
    rate = scalars["system/samples_per_second"].values[-1] / scalars["system/steps_per_second"].values[-1]
    assert rate == pytest.approx(256)  # the batch of all processes


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["trainer=ddp", "trainer.num_nodes=2"], "trainer.num_nodes"),
        (["trainer=fsdp", "trainer.precision=16-mixed"], "trainer.precision"),
        (["trainer=cpu", "trainer.precision=16-mixed"], "trainer.precision"),
        (["trainer=fsdp", "trainer.accelerator=cpu", "trainer.devices=3"], "data.batch_size"),
        (["trainer=ddp_cpu", "data.batch_size=2", "model=cnn", "norm=batch"], "data.batch_size"),
    ],
)
def test_what_cannot_run_is_refused_before(capsys, overrides, key):
    assert main(["check", "logger=none", *overrides]) == 2
    assert f"key      {key}" in capsys.readouterr().err


def test_one_device_is_said_to_be_one(capsys):
    assert main(["check", "logger=none", "trainer=fsdp", "trainer.accelerator=cpu", "trainer.devices=1"]) == 0
    assert "one device" in " ".join(capsys.readouterr().out.split())
