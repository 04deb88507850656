"""Clipping of LightningModules that are not ours, and the count of how often it acts."""

from __future__ import annotations

import math

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from stabletrain.gradient import NoClip, NormClip
from stabletrain.training.callbacks.loss_logging import LogLoss
from stabletrain.training.optimization.gradient_clipping import ClipGradients, ClipMeter
from stabletrain.training.optimization.stability import NonFiniteGradient

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*no `val_dataloader`.*"),
]


class Foreign(pl.LightningModule):
    def __init__(self, scale=100.0):
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.scale, self.norms = nn.Linear(3, 1), scale, []

    def training_step(self, batch, batch_idx):
        return {"loss": self.scale * self.linear(batch[0]).square().mean()}

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-3)

    def optimizer_step(self, *args, **kwargs):
        super().optimizer_step(*args, **kwargs)
        self.norms.append(float(torch.cat([p.grad.flatten() for p in self.parameters()]).norm()))


def fit(module, clip, folder, x=None):
    x = torch.randn(12, 3, generator=torch.Generator().manual_seed(1)) if x is None else x
    callback = ClipGradients(clip)
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        callbacks=[callback, LogLoss()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    trainer.fit(module, DataLoader(TensorDataset(x), batch_size=4))
    return trainer, callback


def test_another_module_is_clipped_before_its_step(tmp_path):
    module = Foreign()
    trainer, callback = fit(module, NormClip(0.5), tmp_path)
    assert module.norms == pytest.approx([0.5] * 3, rel=1e-4)
    assert float(trainer.callback_metrics["clip/norm_after"]) == pytest.approx(0.5, rel=1e-4)
    assert float(trainer.callback_metrics["gradient/norm/total"]) > 0.5
    assert float(trainer.callback_metrics["clip/fraction"]) == 1.0
    assert float(trainer.callback_metrics["train/loss"]) > 0
    assert callback.state_dict()["num_clipped"] == 3
    untouched = Foreign()
    fit(untouched, NoClip(), tmp_path)
    assert min(untouched.norms) > 0.5


def test_a_nonfinite_gradient_stops_before_the_step(tmp_path):
    module = Foreign()
    before = module.linear.weight.detach().clone()
    x = torch.zeros(4, 3)
    x[0, 0] = float("inf")
    with pytest.raises(NonFiniteGradient):
        fit(module, NormClip(0.5), tmp_path, x)
    assert torch.equal(module.linear.weight, before)


def test_the_count_goes_on_where_it_was():
    weight = nn.Parameter(torch.zeros(2))
    meter = ClipMeter(NormClip(1.0))
    for size in (3.0, 0.1):
        weight.grad = torch.full((2,), size)
        _, values = meter.step([weight])
    assert values["clip/fraction"] == 0.5
    again = ClipMeter(NormClip(1.0))
    again.load_state_dict(meter.state_dict())
    weight.grad = torch.full((2,), 5.0)
    assert again.step([weight])[1]["clip/fraction"] == pytest.approx(2 / 3)
    weight.grad = torch.full((2,), float("nan"))
    norm, values = again.step([weight])
    assert math.isnan(norm)
    assert values == {}
    assert again.num_steps == 3
