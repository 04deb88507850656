"""A LightningModule for runs on two processes, with its own parameter, and a loss that can be NaN on one of them."""

from __future__ import annotations

import pytorch_lightning as pl
import torch
from torch import nn


class Own(pl.LightningModule):
    def __init__(self, num_inputs: int, num_outputs: int, bad_batch: int = -1) -> None:
        super().__init__()
        self.bad_batch = bad_batch
        self.body = nn.Sequential(nn.Linear(num_inputs, 12), nn.Tanh(), nn.Linear(12, 12))
        self.head = nn.Linear(12, num_outputs)
        self.gain = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return self.head(self.body(x)) * self.gain

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = nn.functional.cross_entropy(self(x), y)
        is_bad = batch_idx == self.bad_batch and self.global_rank == self.trainer.world_size - 1
        return loss * float("nan") if is_bad else loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val/loss", nn.functional.cross_entropy(self(x), y), sync_dist=True)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 1e-3)
