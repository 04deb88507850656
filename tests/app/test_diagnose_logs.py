"""`diagnose` on the logs of real tools: Lightning, Hugging Face, SummaryWriter; its exit codes, and what it prints."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import LearningRateMonitor
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.tensorboard import SummaryWriter

from stabletrain.app.cli import main
from stabletrain.vocabulary.statuses import DONE_CODE, STOPPED_CODE, WRONG_REQUEST_CODE

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers.*", "ignore:.*LeafSpec.*")
HEALTHY_LR, TOO_HIGH_LR = 1e-2, 1e20


class Foreign(pl.LightningModule):
    """A LightningModule that logs under usual names and knows nothing of stabletrain."""

    def __init__(self, lr: float) -> None:
        super().__init__()
        self.lr = lr
        self.layers = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))

    def _loss(self, batch):
        return nn.functional.cross_entropy(self.layers(batch[0]), batch[1])

    def training_step(self, batch, batch_idx):
        loss = self._loss(batch)
        self.log("train_loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self._loss(batch))
        self.log("val_acc", (self.layers(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.lr)


@pytest.fixture(scope="module", params=[HEALTHY_LR, TOO_HIGH_LR], ids=["healthy", "too high"])
def lightning(request, tmp_path_factory):
    """The folder of a run with both loggers, and the verdict on it."""
    folder = tmp_path_factory.mktemp("lightning")
    torch.manual_seed(0)
    x = torch.randn(320, 8)
    loader = DataLoader(TensorDataset(x, (x @ torch.randn(8, 3)).argmax(1)), batch_size=32)
    trainer = pl.Trainer(
        max_epochs=6,
        logger=[TensorBoardLogger(folder / "tensorboard_logger"), CSVLogger(folder / "csv_logger")],
        callbacks=[LearningRateMonitor("step")],
        log_every_n_steps=2,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        accelerator="cpu",
    )
    trainer.fit(Foreign(request.param), loader, loader)
    return folder, "healthy" if request.param == HEALTHY_LR else "nonfinite"


@pytest.mark.parametrize("logger", ["tensorboard_logger", "csv_logger"])
def test_lightning(lightning, logger, capsys):
    folder, verdict = lightning
    path = folder / logger / "lightning_logs" / "version_0"
    before = sorted(path.iterdir())
    assert main(["diagnose", str(path)]) == DONE_CODE
    printed = capsys.readouterr().out
    assert f"{path}: {verdict}" in printed
    assert "train_loss_step is train/loss" in printed
    assert "lr-Adam is train/lr" in printed
    missing = next(line for line in printed.splitlines() if "not recorded" in line)
    assert "the norm of the gradient, anything about single layers; so not judged: exploding, clip_always" in missing
    assert missing.endswith("To record it: pl.Trainer(callbacks=[st.callbacks.Doctor()])")
    assert sorted(path.iterdir()) == before  # nothing is written
    strict = DONE_CODE if verdict == "healthy" else STOPPED_CODE
    assert main(["diagnose", str(path), "doctor=strict"]) == strict


def test_a_folder_with_two_runs(lightning, capsys):
    folder, _ = lightning
    assert main(["diagnose", str(folder)]) == WRONG_REQUEST_CODE
    printed = capsys.readouterr().err
    assert "There are 2 logs in this folder; name one of them." in printed
    for logger in ("tensorboard_logger", "csv_logger"):
        assert str(folder / logger / "lightning_logs" / "version_0") in printed


@pytest.mark.parametrize(("rate", "verdict"), [(0.1, "healthy"), (0.0, "no_progress")])
def test_a_summary_writer(tmp_path, rate, verdict, capsys):
    with SummaryWriter(str(tmp_path)) as writer:
        for step in range(600):
            writer.add_scalar("Loss/train", 2.3 * math.exp(-rate * step / 10), step)
    assert main(["diagnose", str(tmp_path)]) == DONE_CODE
    printed = capsys.readouterr().out
    assert f"{tmp_path}: {verdict}" in printed
    assert "To record it: doctor = st.Doctor(model), and doctor.step(loss) after loss.backward()" in printed


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*pin_memory.*:UserWarning")
def test_the_state_of_a_hugging_face_trainer(tmp_path, capsys):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    torch.manual_seed(0)
    sizes = {"n_positions": 8, "n_embd": 16, "n_layer": 1, "n_head": 2, "bos_token_id": 0, "eos_token_id": 0}
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=20, **sizes))
    tokens = torch.arange(8).repeat(160, 1)
    arguments = transformers.TrainingArguments(
        str(tmp_path),
        max_steps=40,
        logging_steps=1,
        save_strategy="no",
        learning_rate=1e-2,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        per_device_train_batch_size=4,
    )
    trainer = transformers.Trainer(model, arguments, train_dataset=[{"input_ids": x, "labels": x} for x in tokens])
    trainer.train()
    trainer.save_state()
    capsys.readouterr()
    assert main(["diagnose", str(tmp_path / "trainer_state.json")]) == DONE_CODE
    printed = capsys.readouterr().out
    assert f"{tmp_path / 'trainer_state.json'}: healthy" in printed
    assert "loss is train/loss" in printed
    assert "grad_norm is gradient/norm/total" in printed
    assert "so not judged: gradients_accumulate, not_optimized" in printed
    assert "stabletrain.integrations.huggingface.WatchCallback()" in printed


def write_lines(path, losses, **more):
    lines = [json.dumps({"step": i, "loss": float(x)} | more) for i, x in enumerate(losses)]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def test_strict_stops_a_pipeline_at_a_warning_and_not_at_a_note(tmp_path, capsys):
    losses = 2 * np.exp(-np.arange(300) / 50) + 0.1
    healthy = write_lines(tmp_path / "healthy.jsonl", losses, grad_norm=1.0)  # clipped on every step: a note
    bad = write_lines(tmp_path / "bad.jsonl", np.where(np.arange(300) < 200, losses, np.nan))
    assert main(["diagnose", healthy, "doctor=strict"]) == DONE_CODE
    assert "also seen, harmless so far: clip_always" in capsys.readouterr().out
    assert main(["diagnose", bad]) == DONE_CODE
    assert main(["diagnose", bad, "doctor=strict"]) == STOPPED_CODE
    assert main(["diagnose", healthy, bad, "doctor.fail_on=critical"]) == STOPPED_CODE


def test_the_loss_and_the_epochs_can_be_named(tmp_path, capsys):
    path = tmp_path / "log.csv"
    path.write_text("step,objective,weight\n" + "".join(f"{i},1.0,1.0\n" for i in range(20)))
    assert main(["diagnose", str(path)]) == WRONG_REQUEST_CODE
    printed = capsys.readouterr().err
    assert "found    objective, weight" in printed
    assert "Traceback" not in printed
    assert main(["diagnose", str(path), "--loss", "objective"]) == DONE_CODE
    assert "log.csv: unknown: the loss has fallen by 0%, less than it varies, by step 19" in capsys.readouterr().out
    assert main(["diagnose", str(path), "--loss", "objective", "--epochs"]) == DONE_CODE
    assert "log.csv: no_progress" in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", bytes(range(256)), b"step,accuracy\n1,0.5\n", b"hello\n"])
def test_bad_input_is_explained_without_a_traceback(tmp_path, content, capsys):
    path = tmp_path / "log.csv"
    path.write_bytes(content)
    assert main(["diagnose", str(path)]) == WRONG_REQUEST_CODE
    printed = capsys.readouterr().err
    assert str(path) in printed
    assert "found" in printed
    assert "Traceback" not in printed


def test_a_log_whose_only_loss_has_no_step_is_unknown(tmp_path, capsys):
    path = tmp_path / "trainer_state.json"
    path.write_text('{"log_history": [1, "a", null, {"step": "x", "loss": "y"}, {"loss": 1.0}]}')
    assert main(["diagnose", str(path)]) == DONE_CODE
    assert "unknown" in capsys.readouterr().out
