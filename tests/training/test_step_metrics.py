"""Metrics of steps: the same values at the same steps as with `LightningModule.log` on every step, and fewer reads."""

from __future__ import annotations

import csv
import json
from functools import partial
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from host_reads import HostReads
from pytorch_lightning.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from two_processes import run_together

from stabletrain.app.cli import main
from stabletrain.gradient import NoClip, NormClip
from stabletrain.record.reader import load_record
from stabletrain.training import RecordLogger, TrainingModule
from stabletrain.training.callbacks.loss_logging import LogLoss
from stabletrain.training.optimization.gradient_clipping import ClipGradients, parameters_of

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*no `val_dataloader`.*"),
    pytest.mark.filterwarnings("ignore:.*is smaller than the logging interval.*"),
]
OWN = ("train/loss", "gradient/norm/total", "clip/norm_after", "clip/fraction")


class Reference(TrainingModule):
    """Logs with `LightningModule.log` on every step."""

    def note_loss(self, loss):
        self.log("train/loss", loss, prog_bar=True, on_step=True, on_epoch=False)

    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None):
        norm, values = self.meter.step(parameters_of(optimizer))
        self.check_norm(norm)
        self.log_dict(values, on_step=True, on_epoch=False)

    def on_train_batch_end(self, outputs, batch, batch_idx):
        pass


class Seen(pl.Callback):
    """What callbacks read in each hook."""

    def __init__(self):
        self.found = []

    def _note(self, hook, trainer):
        values = {name: float(v) for name, v in trainer.callback_metrics.items() if name in OWN}
        self.found.append((hook, trainer.global_step, values))

    def on_train_batch_end(self, trainer, *_):
        self._note("batch", trainer)

    def on_validation_end(self, trainer, *_):
        self._note("validation", trainer)

    def on_train_epoch_end(self, trainer, *_):
        self._note("epoch", trainer)

    def on_train_end(self, trainer, *_):
        self._note("end", trainer)


def make(kind: type[TrainingModule]) -> TrainingModule:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2))
    return kind(network, "classification", 2, partial(torch.optim.SGD, lr=0.5), clip=NormClip(0.5))


def fit(module: pl.LightningModule, folder: Path, *callbacks: pl.Callback, **settings) -> pl.Trainer:
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(52, 3, generator=generator), torch.randint(0, 2, (52,), generator=generator)
    data = DataLoader(TensorDataset(x, y), batch_size=4)
    trainer = pl.Trainer(
        **{"max_epochs": 2, "log_every_n_steps": 5, **settings},
        accelerator="cpu",
        logger=[RecordLogger(folder / "tensorboard"), CSVLogger(folder, name="csv", version="")],
        callbacks=list(callbacks),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        num_sanity_val_steps=0,
    )
    trainer.fit(module, data, data)
    return trainer


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "csv/metrics.csv").open() as file:
        return list(csv.DictReader(file))


SETTINGS = {
    "as usual": {},
    "every step": {"log_every_n_steps": 1},
    "accumulated": {"accumulate_grad_batches": 3},
    "stopped by max_steps": {"max_steps": 17},
    "validated within the epoch": {"val_check_interval": 4},
    "longer than the run": {"log_every_n_steps": 100},
    "half precision": {"precision": "bf16-true"},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_it_equals_logging_on_every_step(name, tmp_path):
    slow, fast = Seen(), Seen()
    fit(make(Reference), tmp_path / "slow", slow, **SETTINGS[name])
    fit(make(TrainingModule), tmp_path / "fast", fast, **SETTINGS[name])
    assert fast.found == slow.found
    assert set(fast.found[-1][2]) == set(OWN)
    expected, found = load_record(tmp_path / "slow").scalars, load_record(tmp_path / "fast").scalars
    assert {n: (s.steps, s.values) for n, s in found.items()} == {n: (s.steps, s.values) for n, s in expected.items()}
    assert rows(tmp_path / "fast") == rows(tmp_path / "slow")


def test_the_cadence_is_that_of_the_trainer(tmp_path):
    fit(make(TrainingModule), tmp_path, log_every_n_steps=5)
    record = load_record(tmp_path)
    assert all(record.scalars[name].steps == [4, 9, 14, 19, 24] for name in OWN)
    logged = [row for row in rows(tmp_path) if row["train/loss"]]
    assert [int(row["step"]) for row in logged] == [4, 9, 14, 19, 24]
    assert [float(row["train/loss"]) for row in logged] == pytest.approx(record.scalars["train/loss"].values, rel=1e-6)
    assert all(row[name] for row in logged for name in OWN)


def test_a_step_that_ends_training_is_logged(tmp_path):
    class Stop(pl.Callback):
        def on_train_batch_end(self, trainer, *_):
            trainer.should_stop = trainer.global_step == 7

    fit(make(TrainingModule), tmp_path, Stop())
    assert load_record(tmp_path).scalars["train/loss"].steps == [4, 6]


def count_reads(kind: type[TrainingModule], folder: Path) -> list[int]:
    """Return the number of reads from the start of each batch to that of the next one."""

    class Count(pl.Callback):
        def __init__(self):
            self.counts, self.mode = [], None

        def on_train_batch_start(self, *_):
            self.leave()
            self.mode = HostReads()
            self.mode.__enter__()

        def leave(self):
            if self.mode is not None:
                self.mode.__exit__(None, None, None)
                self.counts.append(self.mode.total)
                self.mode = None

        def on_train_epoch_end(self, *_):
            self.leave()

    count = Count()
    fit(make(kind), folder, count, max_epochs=1, limit_val_batches=0)
    return count.counts


def test_no_value_is_read_on_a_step_that_is_not_logged(tmp_path):
    counts = count_reads(TrainingModule, tmp_path / "fast")
    assert len(counts) == 13
    assert [step for step, count in enumerate(counts) if count > 1] == [4, 9]  # the clip's norm is read on every step
    assert min(count_reads(Reference, tmp_path / "slow")) > 1


def test_the_bar_has_the_last_logged_loss_and_the_module_the_last_one(tmp_path):
    module = make(TrainingModule)
    trainer = fit(module, tmp_path)
    record = load_record(tmp_path)
    assert trainer.progress_bar_metrics["train/loss"] == pytest.approx(record.scalars["train/loss"].values[-1])
    assert module.last_loss is not None
    assert not module.last_loss.requires_grad
    assert float(module.last_loss) == float(trainer.callback_metrics["train/loss"])


class Foreign(pl.LightningModule):
    def __init__(self, logs: bool):
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.logs = nn.Linear(3, 2), logs

    def training_step(self, batch, batch_idx):
        loss = nn.functional.cross_entropy(self.linear(batch[0]), batch[1])
        if self.logs:
            self.log("train/loss", 2 * loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", nn.functional.cross_entropy(self.linear(batch[0]), batch[1]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.5)


class SlowLogLoss(LogLoss):
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        pl_module.log("train/loss", outputs["loss"].detach(), on_step=True, on_epoch=False)


@pytest.mark.parametrize("name", SETTINGS)
def test_another_module_is_logged_alike(name, tmp_path):
    slow, fast = Seen(), Seen()
    fit(Foreign(False), tmp_path / "slow", ClipGradients(NoClip()), SlowLogLoss(), slow, **SETTINGS[name])
    fit(Foreign(False), tmp_path / "fast", ClipGradients(NoClip()), LogLoss(), fast, **SETTINGS[name])
    assert [x for x in fast.found if x[0] != "batch"] == [x for x in slow.found if x[0] != "batch"]
    expected, found = load_record(tmp_path / "slow").scalars, load_record(tmp_path / "fast").scalars
    assert {n: (s.steps, s.values) for n, s in found.items()} == {n: (s.steps, s.values) for n, s in expected.items()}
    assert ("train/loss" in found) == (SETTINGS[name].get("log_every_n_steps") != 100)


class Manual(Foreign):
    """Steps twice in every second batch: not every batch is one step."""

    def __init__(self):
        super().__init__(False)
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        for _ in range(1 + batch_idx % 2):
            loss = super().training_step(batch, batch_idx)
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
        return {"loss": loss}


def test_manual_optimization_is_logged_alike(tmp_path):
    slow, fast = Seen(), Seen()
    fit(Manual(), tmp_path / "slow", ClipGradients(NoClip()), SlowLogLoss(), slow)
    fit(Manual(), tmp_path / "fast", ClipGradients(NoClip()), LogLoss(), fast)
    assert fast.found[-1] == slow.found[-1]
    assert fast.found[-1][1] == 2 * (13 + 6)
    expected, found = load_record(tmp_path / "slow").scalars, load_record(tmp_path / "fast").scalars
    assert {n: (s.steps, s.values) for n, s in found.items()} == {n: (s.steps, s.values) for n, s in expected.items()}
    assert found["train/loss"].steps == [4, 9, 14, 19, 24]  # batches, as Lightning counts them here


def test_a_module_that_logs_its_loss_keeps_its_own(tmp_path):
    trainer = fit(Foreign(True), tmp_path / "own", LogLoss())
    other = fit(Foreign(False), tmp_path / "ours", LogLoss())
    own = load_record(tmp_path / "own").scalars["train/loss"]
    ours = load_record(tmp_path / "ours").scalars["train/loss"]
    assert own.steps == ours.steps
    assert own.values == pytest.approx([2 * value for value in ours.values], rel=1e-6)
    assert float(trainer.callback_metrics["train/loss"]) == pytest.approx(
        2 * float(other.callback_metrics["train/loss"])
    )


def test_two_processes_log_the_mean_of_their_losses(tmp_path):
    line = ["model=mlp", "logger=tensorboard", "trainer=cpu", "trainer.max_epochs=2", "seed=1", "watch=off"]
    two = [*line, "trainer.devices=2", "trainer.strategy=ddp", "output_dir=two"]
    outcomes = run_together(tmp_path, [two])
    assert outcomes[0]["codes"] == [0, 0], outcomes[0]["errors"]
    assert main([*line, f"output_dir={tmp_path / 'one'}"]) == 0
    one, both = load_record(tmp_path / "one").scalars, load_record(tmp_path / "two").scalars
    assert both["train/loss"].steps == one["train/loss"].steps
    assert both["train/loss"].values == pytest.approx(one["train/loss"].values, rel=1e-4)
    # the last of 2 x 39 steps is not logged, but the summary has its mean
    summaries = [json.loads((tmp_path / name / "summary.json").read_text())["metrics"] for name in ("one", "two")]
    assert summaries[1]["train/loss"] == pytest.approx(summaries[0]["train/loss"], rel=1e-4)
    assert summaries[0]["train/loss"] != pytest.approx(one["train/loss"].values[-1], rel=1e-4)
