"""Checkpoints between the ends of epochs: when they are due, what they hold, and what they cost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from stabletrain.training.callbacks.step_checkpoint import StepCheckpoint
from stabletrain.training.checkpoint import ManifestCheckpointIO
from stabletrain.training.resumable_loader import ResumableLoader, TrainingOrder

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers.*")
NUM_BATCHES = 6


class Module(pl.LightningModule):
    """A user's module, with a plain loader."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def training_step(self, batch, batch_idx):
        return nn.functional.dropout(self.layer(batch[0]), 0.5).square().mean()

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.layer(batch[0]).square().mean())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 0.1)

    def train_dataloader(self):
        return DataLoader(TensorDataset(torch.randn(4 * NUM_BATCHES, 2)), batch_size=4, shuffle=True)

    def val_dataloader(self):
        return DataLoader(TensorDataset(torch.randn(4, 2)))


class Seen(pl.Callback):
    """Notes the step of the checkpoint that is on disk at each batch, and advances the clock."""

    def __init__(self, path: Path, seconds_per_step: float = 0.0) -> None:
        self.path, self.steps, self.now, self.seconds_per_step = path, [], 0.0, seconds_per_step

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        self.now += self.seconds_per_step

    def on_before_backward(self, trainer, pl_module, loss) -> None:
        manifest = self.path.with_suffix(".json")
        self.steps.append(json.loads(manifest.read_text())["step"] if manifest.is_file() else None)


def fit(tmp_path: Path, seen: Seen, saver: StepCheckpoint, ckpt_path=None, **settings) -> pl.Trainer:
    torch.manual_seed(0)
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=True,
        num_sanity_val_steps=0,
        callbacks=[TrainingOrder(), saver, seen],
        plugins=[ManifestCheckpointIO()],
        default_root_dir=str(tmp_path),
        **({"max_epochs": 1} | settings),
    )
    trainer.fit(Module(), ckpt_path=ckpt_path, weights_only=True)
    return trainer


def run(tmp_path: Path, seconds_per_step: float = 0.0, every_steps=None, every_seconds=None, **settings) -> list:
    path = tmp_path / "last.ckpt"
    seen = Seen(path, seconds_per_step)
    fit(tmp_path, seen, StepCheckpoint(path, every_steps, every_seconds, clock=lambda: seen.now), **settings)
    return seen.steps


def test_every_so_many_steps(tmp_path):
    assert run(tmp_path, every_steps=2) == [None, None, 2, 2, 4, 4]


def test_every_so_many_seconds(tmp_path):
    assert run(tmp_path, 3.0, every_seconds=5.0) == [None, None, 2, 2, 2, 5]


def test_by_default_ten_seconds_apart(tmp_path):
    assert run(tmp_path, 4.0) == [None, None, None, 3, 3, 3]
    assert run(tmp_path / "short", 0.1) == [None] * 6


def test_an_expensive_checkpoint_is_rarer(tmp_path):
    saver = StepCheckpoint(tmp_path / "last.ckpt", clock=lambda: 300.0)
    saver._last_s, saver._cost_s = 0.0, 2.0
    trainer = type("Trainer", (), {"global_step": 7, "world_size": 1})()
    assert saver._is_due(trainer)
    saver._cost_s = 4.0  # 1% of the time takes 400 seconds
    assert not saver._is_due(trainer)


def test_none_within_a_step_and_none_before_a_validation(tmp_path):
    assert run(tmp_path, every_steps=1, accumulate_grad_batches=2) == [None, None, 1, 1, 2, 2]
    assert run(tmp_path / "val", every_steps=1, val_check_interval=2) == [None, 1, 1, 3, 3, 5]


def test_what_is_written_is_the_state_of_the_step(tmp_path):
    class Trace(Seen):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
            self.weights = [*getattr(self, "weights", []), pl_module.layer.weight.detach().clone()]

    path = tmp_path / "last.ckpt"
    seen = Trace(path)
    fit(tmp_path, seen, StepCheckpoint(path, 5))
    saved = torch.load(path, weights_only=True)["state_dict"]["layer.weight"]
    assert torch.equal(saved, seen.weights[4])
    assert not torch.equal(saved, seen.weights[5])


@pytest.mark.filterwarnings("ignore:.*your dataloader is not resumable.*")  # not in Lightning's way
def test_a_module_and_a_loader_of_your_own_resume_within_an_epoch(tmp_path):
    whole = fit(tmp_path, Seen(tmp_path / "a.ckpt"), StepCheckpoint(tmp_path / "a.ckpt", 4), max_epochs=2)
    assert isinstance(whole.train_dataloader, ResumableLoader)
    assert "train_dataloader" not in vars(whole.lightning_module)
    seen = Seen(tmp_path / "b.ckpt")
    first = fit(tmp_path, seen, StepCheckpoint(tmp_path / "b.ckpt", 10), max_epochs=2)
    assert seen.steps[-1] == 10  # of 12, in the second epoch
    torch.manual_seed(5)
    resumed = fit(
        tmp_path, Seen(tmp_path / "c.ckpt"), StepCheckpoint(tmp_path / "c.ckpt"), tmp_path / "b.ckpt", max_epochs=2
    )
    for other in (first, resumed):
        assert other.global_step == 12
        assert torch.equal(other.lightning_module.layer.weight, whole.lightning_module.layer.weight)
