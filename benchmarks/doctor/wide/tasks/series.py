"""Forecasting of time series: LSTM, GRU, temporal convolutions."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from benchmarks.doctor.wide.data import generator_of
from benchmarks.doctor.wide.program import Batch, Supervised, r_squared


def waves(count: int, length: int, generator: Generator) -> Tensor:
    """Return sums of two sines of random periods and phases with a trend and noise (count, length)."""
    t = torch.arange(length)
    period = 6 + 14 * torch.rand(count, 2, 1, generator=generator)
    phase = 2 * math.pi * torch.rand(count, 2, 1, generator=generator)
    size = 0.5 + torch.rand(count, 2, 1, generator=generator)
    trend = 0.03 * torch.randn(count, 1, generator=generator) * (t - length / 2)
    return (
        (size * (2 * math.pi * t / period + phase).sin()).sum(1)
        + trend
        + 0.1 * torch.randn(count, length, generator=generator)
    )


class _Recurrent(nn.Module):
    def __init__(self, cell: type[nn.RNNBase], width: int, num_outputs: int) -> None:
        super().__init__()
        self.rnn, self.head = cell(1, width, batch_first=True), nn.Linear(width, num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x[:, :, None])[0][:, -1])


class _Forecast(Supervised):
    """The value after the next from those before; points are 100 · R²."""

    parts = ("rnn", "head")
    has_column = True
    length, ahead = 20, 2
    lr = 1e-2
    sgd_lr = 0.05
    num_steps = 150
    batch_size = 32

    def __init__(self, seed: int) -> None:
        series = waves(2000, self.length + self.ahead, generator_of(seed))
        x, y = series[:, : self.length], series[:, -1:]
        self.x, self.y, self.val_x, self.val_y = x[400:], y[400:], x[:400], y[:400]
        self.networks = {"model": self.make()}
        self.prior_loss = y.var().item()

    def make(self) -> nn.Module:
        raise NotImplementedError

    def loss(self, batch: Batch, network: str) -> Tensor:
        return F.mse_loss(self.model(batch[0]), batch[1])

    def score(self) -> float:
        return r_squared(self.model(self.val_x), self.val_y)


class ForecastLstm(_Forecast):
    """An LSTM."""

    def make(self) -> nn.Module:
        return _Recurrent(nn.LSTM, 32, 1)


class ForecastGru(_Forecast):
    """A GRU over shorter series, under the L1 loss."""

    length, ahead = 16, 2
    lr = 2e-2
    num_steps = 200

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.prior_loss = None

    def make(self) -> nn.Module:
        return _Recurrent(nn.GRU, 32, 1)

    def loss(self, batch: Batch, network: str) -> Tensor:
        return F.l1_loss(self.model(batch[0]), batch[1])


class _Tcn(nn.Module):
    """Causal convolutions with growing dilation (Bai et al. 2018)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, dilation in ((1, 1), (width, 2), (width, 4), (width, 8)):
            layers += [
                nn.ConstantPad1d((2 * dilation, 0), 0.0),
                nn.Conv1d(before, width, 3, dilation=dilation),
                nn.ReLU(),
            ]
        self.body, self.head = nn.Sequential(*layers), nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x[:, None])[:, :, -1])


class ForecastTcn(_Forecast):
    """A temporal convolutional network."""

    parts = ("body.1", "body.4", "head")
    lr = 3e-3
    length, ahead = 28, 2

    def make(self) -> nn.Module:
        return _Tcn(24)
