"""Other people's LightningModules: a GAN, a project like lightning-hydra-template, darts, neuralforecast, …"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from client_runs import FAULTS, Run, break_, check_broken, check_healthy, rate, weights_of
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import stabletrain as st

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

NUM_STEPS, GAN_STEPS, BATCH = 80, 300, 32
SETTINGS: dict[str, Any] = {
    "accelerator": "cpu",
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
    "logger": False,
}


class Breaks(pl.Callback):
    """Breaks the module once it exists, and notes its losses and weights; a module may say itself what it learned."""

    def __init__(self, fault: str | None) -> None:
        self.fault, self.losses, self.weights = fault, [], {}

    def on_fit_start(self, trainer, pl_module):
        break_(pl_module, self.fault)
        if self.fault == "rate":
            for optimizer in trainer.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = rate(group["lr"], self.fault)

    def on_before_backward(self, trainer, pl_module, loss):
        if not hasattr(pl_module, "distance"):
            self.losses.append(float(loss.detach()))

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if hasattr(pl_module, "distance"):
            self.losses.append(pl_module.distance())

    def on_train_end(self, trainer, pl_module):
        self.weights = weights_of(pl_module)


@functools.cache
def make_client(fit: Callable[[list[pl.Callback], Any], Any]):
    """Return a client of a function that fits a module with callbacks and a root folder.

    A library that trains with copies of the callbacks puts them into the list.
    """

    def train(fault, watched, folder) -> Run:
        pl.seed_everything(0, verbose=False)
        callbacks: list[Any] = [Breaks(fault), *([st.callbacks.Doctor(say=lambda line: None)] if watched else [])]
        try:
            fit(callbacks, folder)
        except Exception:  # some clients refuse NaN themselves
            if fault is None:
                raise
        breaks, *doctors = callbacks[: 1 + watched]
        assert breaks.losses
        run = Run(breaks.weights, losses=breaks.losses)
        for doctor in doctors:
            run.verdict, run.findings = doctor.verdict, doctor.findings
        return run

    return train


# ---------------------------------------------------------------- a GAN with manual optimization


class GAN(pl.LightningModule):
    """Half a circle: the generator turns noise into points of it."""

    def __init__(self, points: Tensor) -> None:
        super().__init__()
        self.points, self.noise = points, torch.randn(256, 4, generator=torch.Generator().manual_seed(2))
        self.automatic_optimization = False
        self.generator = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2))
        self.discriminator = nn.Sequential(
            nn.Linear(2, 32), nn.LeakyReLU(0.2), nn.Linear(32, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1)
        )

    def says(self, x: Tensor, is_real: float) -> Tensor:
        logits = self.discriminator(x)
        return nn.functional.binary_cross_entropy_with_logits(logits, torch.full_like(logits, is_real))

    def training_step(self, batch, batch_idx):
        of_generator, of_discriminator = self.optimizers()  # pyright: ignore[reportGeneralTypeIssues]
        noise = torch.randn(len(batch[0]), 4)
        of_discriminator.zero_grad()
        self.manual_backward((self.says(batch[0], 1.0) + self.says(self.generator(noise).detach(), 0.0)) / 2)
        of_discriminator.step()
        of_generator.zero_grad()
        self.manual_backward(self.says(self.generator(noise), 1.0))
        of_generator.step()

    def configure_optimizers(self):
        return [torch.optim.Adam(m.parameters(), lr=2e-3, betas=(0.5, 0.9)) for m in self.children()]

    @torch.no_grad()
    def distance(self) -> float:
        """Return the energy distance of generated and true points (Székely and Rizzo 2013)."""
        x, y = self.generator(self.noise), self.points[: len(self.noise)]
        return float(2 * torch.cdist(x, y).mean() - torch.cdist(x, x).mean() - torch.cdist(y, y).mean())


def fit_gan(callbacks, folder):
    angle = math.pi * torch.rand(GAN_STEPS * BATCH, generator=torch.Generator().manual_seed(1))
    points = torch.stack([angle.cos(), angle.sin()], 1)
    trainer = pl.Trainer(callbacks=callbacks, default_root_dir=folder, max_epochs=1, **SETTINGS)
    trainer.fit(GAN(points), DataLoader(TensorDataset(points), batch_size=BATCH))


# ---------------------------------------------------------------- as in lightning-hydra-template


class LitModule(pl.LightningModule):
    """The network, the optimizer's factory and the names of the metrics are those of the template."""

    def __init__(self, net: nn.Module, optimizer: Callable[..., torch.optim.Optimizer]) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False, ignore=["net"])
        self.net, self.criterion = net, nn.CrossEntropyLoss()

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        loss = self.criterion(self(batch[0]), batch[1])
        self.log("train/loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        logits = self(batch[0])
        self.log("val/loss", self.criterion(logits, batch[1]))
        self.log("val/acc", (logits.argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self):
        return {"optimizer": self.hparams["optimizer"](params=self.parameters())}


TEMPLATE = """
callbacks:
  doctor:
    _target_: stabletrain.callbacks.Doctor
model:
  optimizer:
    _target_: torch.optim.Adam
    _partial_: true
    lr: 0.003
"""


def fit_template(callbacks, folder):
    """The callback is made by Hydra, from a configuration that names it."""
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    config = OmegaConf.create(TEMPLATE)
    if len(callbacks) > 1:
        assert type(instantiate(config.callbacks.doctor)) is type(callbacks[1])
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(NUM_STEPS * BATCH, 8, generator=generator)
    data = TensorDataset(x, (x[:, 0] * x[:, 1] > 0).long())
    net = nn.Sequential(nn.Linear(8, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
    trainer = pl.Trainer(callbacks=callbacks, default_root_dir=folder, max_epochs=2, **SETTINGS)
    loader = DataLoader(data, batch_size=BATCH)
    trainer.fit(LitModule(net, instantiate(config.model.optimizer)), loader, loader)


# ---------------------------------------------------------------- forecasting


def make_wave(num: int = 600) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, 0.1, num)
    return (np.sin(np.arange(num) * 2 * np.pi / 24) + noise).astype(np.float32)


def fit_darts(kind, **settings):
    def fit(callbacks, folder):
        darts = pytest.importorskip("darts")
        models = pytest.importorskip("darts.models")
        trainer = {**SETTINGS, "callbacks": callbacks, "default_root_dir": str(folder)}
        model = getattr(models, kind)(
            n_epochs=8, batch_size=BATCH, random_state=0, pl_trainer_kwargs=trainer, **settings
        )
        model.fit(darts.TimeSeries.from_values(make_wave()))

    return fit


def fit_neuralforecast(kind, num_steps=NUM_STEPS, **settings):
    def fit(callbacks, folder):
        neural = pytest.importorskip("neuralforecast")
        models = pytest.importorskip("neuralforecast.models")
        pandas = pytest.importorskip("pandas")
        wave = make_wave()
        frame = pandas.DataFrame(
            {"unique_id": "a", "ds": pandas.date_range("2020", periods=len(wave), freq="h"), "y": wave}
        )
        trainer = {**SETTINGS, "callbacks": callbacks, "default_root_dir": str(folder)}
        model = getattr(models, kind)(
            h=12, input_size=24, max_steps=num_steps, batch_size=1, windows_batch_size=BATCH, random_seed=0,
            scaler_type="standard", **settings, **trainer,
        )  # fmt: skip
        whole = neural.NeuralForecast(models=[model], freq="h")
        callbacks[:] = whole.models[0].trainer_kwargs["callbacks"]  # copies, as the model is one
        whole.fit(frame)

    return fit


def fit_pytorch_forecasting(kind, **settings):
    def fit(callbacks, folder):
        forecasting = pytest.importorskip("pytorch_forecasting")
        pandas = pytest.importorskip("pandas")
        wave = make_wave()
        frame = pandas.DataFrame({"t": np.arange(len(wave)), "group": "a", "y": wave})
        data = forecasting.TimeSeriesDataSet(
            frame, time_idx="t", target="y", group_ids=["group"], max_encoder_length=24, min_encoder_length=24,
            max_prediction_length=12, min_prediction_length=12, time_varying_unknown_reals=["y"],
            add_relative_time_idx=kind == "TemporalFusionTransformer",
            target_normalizer=forecasting.data.GroupNormalizer(groups=["group"]) if kind == "DeepAR" else "auto",
        )  # fmt: skip
        model = getattr(forecasting, kind).from_dataset(data, **settings)
        package: Any = pytest.importorskip("lightning.pytorch")
        trainer = package.Trainer(callbacks=callbacks, default_root_dir=folder, max_epochs=4, **SETTINGS)
        trainer.fit(model, data.to_dataloader(train=True, batch_size=BATCH, num_workers=0))

    return fit


CLIENTS = {
    "gan": fit_gan,
    "template": fit_template,
    "darts-rnn": fit_darts("RNNModel", model="LSTM", hidden_dim=16, input_chunk_length=24, training_length=36),
    "darts-tcn": fit_darts("TCNModel", input_chunk_length=24, output_chunk_length=12, num_filters=8),
    "darts-nbeats": fit_darts(
        "NBEATSModel", input_chunk_length=24, output_chunk_length=12, num_stacks=2, num_blocks=1, layer_widths=32
    ),
    "neuralforecast-tft": fit_neuralforecast("TFT", 200, hidden_size=16),  # after 80, the loss still falls steeply
    "neuralforecast-deepar": fit_neuralforecast("DeepAR", lstm_hidden_size=16),
    "neuralforecast-nbeats": fit_neuralforecast("NBEATS", mlp_units=3 * [[32, 32]]),
    "pytorch-forecasting-tft": fit_pytorch_forecasting(
        "TemporalFusionTransformer", hidden_size=16, attention_head_size=2, learning_rate=1e-2
    ),
    "pytorch-forecasting-deepar": fit_pytorch_forecasting("DeepAR", hidden_size=16, learning_rate=1e-2),
    "pytorch-forecasting-nbeats": fit_pytorch_forecasting("NBeats", widths=[32, 64], learning_rate=1e-3),
}


WRONG = {
    ("pytorch-forecasting-tft", "tenfold"): "The loss falls to a tenth in 68 steps and nothing unusual is left at the "
    "end: that it would be lower with ordinary weights shows in the healthy run alone.",
}


def known(name, fault):
    """Return a test case, which is expected to fail for the reason that is known."""
    reason = WRONG.get((name, fault))
    return pytest.param(name, fault, marks=[] if reason is None else pytest.mark.xfail(strict=True, reason=reason))


@pytest.mark.parametrize(("name", "fault"), [known(name, None) for name in CLIENTS])
def test_a_healthy_run_is_left_alone(name, fault, tmp_path):
    check_healthy(make_client(CLIENTS[name]), tmp_path)


@pytest.mark.parametrize(("name", "fault"), [known(name, fault) for fault in FAULTS for name in CLIENTS])
def test_what_broke_it_comes_first(name, fault, tmp_path):
    check_broken(make_client(CLIENTS[name]), fault, tmp_path)
