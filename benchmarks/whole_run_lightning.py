"""Train a network in plain Lightning with TensorBoard and MLflow; a run of `whole_run.py`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import MLFlowLogger, TensorBoardLogger
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset
from torchmetrics import Accuracy
from whole_run_trainer import TimedTrainer


class Module(pl.LightningModule):
    def __init__(self, network: nn.Module, num_outputs: int, optimizer: dict) -> None:
        super().__init__()
        self.network, self.settings = network, optimizer
        self.val_accuracy = Accuracy(task="multiclass", num_classes=num_outputs)
        self.test_accuracy = Accuracy(task="multiclass", num_classes=num_outputs)

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = nn.functional.cross_entropy(self.network(x), y)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        outputs = self.network(x)
        self.val_accuracy(outputs, y)
        self.log("val/loss", nn.functional.cross_entropy(outputs, y), prog_bar=True)
        self.log("val/accuracy", self.val_accuracy, prog_bar=True)

    def test_step(self, batch, batch_idx):
        x, y = batch
        outputs = self.network(x)
        self.test_accuracy(outputs, y)
        self.log("test/loss", nn.functional.cross_entropy(outputs, y))
        self.log("test/accuracy", self.test_accuracy)

    def configure_optimizers(self):
        return torch.optim.Adam(self.network.parameters(), **self.settings)


def main() -> None:
    folder, out, store = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    settings = json.loads((folder / "settings.json").read_text())
    network = torch.load(folder / "network.pt", weights_only=False)
    splits = {name: TensorDataset(*tensors) for name, tensors in torch.load(folder / "data.pt").items()}
    # the order of stabletrain's batches
    sampler = DistributedSampler(splits["train"], 1, 0, shuffle=True, seed=settings["seed"], drop_last=True)
    train = DataLoader(splits["train"], settings["batch_size"], sampler=sampler, drop_last=True)
    val, test = (DataLoader(splits[name], 256) for name in ("val", "test"))
    trainer = TimedTrainer(
        accelerator="cpu",
        devices=1,
        max_epochs=settings["epochs"],
        gradient_clip_val=settings["max_norm"],
        log_every_n_steps=settings["log_every"],
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        logger=[TensorBoardLogger(out), MLFlowLogger("whole_run", tracking_uri=store)],
        callbacks=[ModelCheckpoint(out, "best", monitor="val/loss", save_last=True, auto_insert_metric_name=False)],
        enable_progress_bar="--bar" in sys.argv,
    )
    trainer.fit(Module(network, settings["num_outputs"], settings["optimizer"]), train, val)
    trainer.test(ckpt_path="best", dataloaders=test)


if __name__ == "__main__":
    main()
