"""`diagnose`, `report` and `sync` on the log folders that our callbacks leave in other people's trainings."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from mlflow_fakes import get_run
from pytorch_lightning.loggers import TensorBoardLogger
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.tensorboard import SummaryWriter

import stabletrain as st
from stabletrain.app.cli import main
from stabletrain.record.bounded_reader import load_bounded
from stabletrain.record.reader import load_record
from stabletrain.record.run_folder import RunFolder, folder_of
from stabletrain.record.writer import RecordWriter
from stabletrain.vocabulary import metric_names as names
from stabletrain.vocabulary.statuses import DONE_CODE, FINISHED, WRONG_REQUEST_CODE

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers.*", "ignore:.*LeafSpec.*")
NUM_STEPS = 20


class Foreign(pl.LightningModule):
    """A LightningModule with a saturated stack of layers, which does not learn."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*[m for _ in range(14) for m in (nn.Linear(8, 8), nn.Sigmoid())], nn.Linear(8, 2))

    def training_step(self, batch, batch_idx):
        loss = nn.functional.cross_entropy(self.layers(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-3)


@pytest.fixture(scope="module")
def lightning(tmp_path_factory):
    folder = tmp_path_factory.mktemp("logs")
    torch.manual_seed(0)
    x = torch.randn(NUM_STEPS * 16, 8)
    trainer = pl.Trainer(
        max_epochs=1,
        logger=TensorBoardLogger(folder),
        callbacks=[st.callbacks.Doctor()],
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
    )
    trainer.fit(Foreign(), DataLoader(TensorDataset(x, (x[:, 0] > 0).long()), batch_size=16))
    return folder / "lightning_logs" / "version_0"


@pytest.fixture
def version_0(lightning, runs):
    """A copy in the folder of runs, beside a store of MLflow. Its training has ended, though its process is alive."""
    shutil.copytree(lightning, runs / "version_0")
    RunFolder(runs / "version_0").update_summary(status=FINISHED)
    return runs / "version_0"


def test_diagnose_and_report_say_the_same(version_0, capsys):
    assert main(["diagnose", str(version_0)]) == DONE_CODE
    verdict = capsys.readouterr().out.splitlines()[0].rpartition(": ")[2]
    assert json.loads((version_0 / "summary.json").read_text())["verdict"] == verdict
    assert main(["report", str(version_0)]) == DONE_CODE
    page = (version_0 / "report.html").read_text()
    assert {"vanishing": "Vanishing gradients", "bad_init": "Unsuitable initialization"}[verdict] in page


def test_sync_ships_the_record_and_not_the_checkpoints(version_0, uri, capsys):
    assert main(["sync", str(version_0)]) == DONE_CODE
    run_id = json.loads((version_0 / "summary.json").read_text())["mlflow_run_id"]
    run = get_run(uri, run_id)
    assert run.data.metrics[names.TRAIN_LOSS] > 0
    shipped = [path.name for path in version_0.parent.rglob(f"{run_id}/artifacts/**/*") if path.is_file()]
    assert not any(name.endswith(".ckpt") for name in shipped)
    assert any(name.startswith("events.out.tfevents") for name in shipped)


@pytest.fixture
def flat(runs):
    """A folder into which SummaryWriter and stabletrain have both written, as earlier versions of the callback did."""
    folder = runs / "flat"
    with SummaryWriter(str(folder)) as writer:
        for step in range(NUM_STEPS):
            writer.add_scalar("train_loss", 1.0, step)
    with_record(folder)
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "last.ckpt").write_bytes(b"x")
    return folder


def with_record(folder):
    writer = RecordWriter(folder)
    for step in range(NUM_STEPS):
        writer.write_scalars(step, {names.TRAIN_LOSS: 2.0})
    writer.write_vectors(0, {names.of_layer(names.TIME_NORM, "L00.rnn"): np.ones(3)})
    writer.close()


def test_of_two_writers_in_one_folder_ours_is_the_record(flat):
    assert RunFolder(flat).is_recorded
    for record in (load_record(flat), load_bounded(flat)):
        assert {*record.scalars} == {names.TRAIN_LOSS}
        assert {*record.scalars[names.TRAIN_LOSS].values} == {2.0}


def test_a_flat_folder_is_reported_and_shipped_without_its_checkpoints(flat, runs, uri, capsys):
    folder = flat
    assert main(["report", str(folder)]) == DONE_CODE
    assert "verdict" in json.loads((folder / "summary.json").read_text())
    RunFolder(folder).update_summary(status=FINISHED)
    assert main(["sync", str(folder)]) == DONE_CODE
    first = capsys.readouterr().out
    assert main(["sync", str(folder)]) == DONE_CODE
    assert "0 points, 0 images, 0 artifacts shipped" in capsys.readouterr().out, first
    run_id = json.loads((folder / "summary.json").read_text())["mlflow_run_id"]
    shipped = [path for path in runs.rglob(f"{run_id}/artifacts/**/*") if path.is_file()]
    assert [path.parent.name for path in shipped if path.name.startswith("events.out")] == ["tensorboard"]
    assert not any(path.suffix == ".ckpt" for path in shipped)


def test_a_run_is_found_from_any_of_its_paths(tmp_path, capsys):
    with_record(tmp_path / "runs" / "mine" / "tensorboard")
    run = tmp_path / "runs" / "mine"
    event_file = next((run / "tensorboard").iterdir())
    assert [folder_of(path).path for path in (run, run / "tensorboard", event_file)] == [run] * 3
    assert main(["diagnose", str(tmp_path / "runs")]) == DONE_CODE  # the only one below it
    assert (run / "findings.json").is_file()


@pytest.mark.parametrize("command", ["report", "sync"])
def test_a_log_of_another_tool_is_no_run(tmp_path, command, capsys):
    with SummaryWriter(str(tmp_path / "tensorboard")) as writer:
        writer.add_scalar("train_loss", 1.0, 0)
    assert not RunFolder(tmp_path).is_recorded
    assert main([command, str(tmp_path)]) == WRONG_REQUEST_CODE
    assert "There is no run in this folder." in capsys.readouterr().err
    assert main(["diagnose", str(tmp_path)]) == DONE_CODE
    assert "unknown: 1 losses are too few" in capsys.readouterr().out
