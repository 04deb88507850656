"""Generative models: variational autoencoders, GANs, diffusion, normalizing flows."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from benchmarks.doctor.wide.data import digits, generator_of, images, moons
from benchmarks.doctor.wide.program import Batch, Program, r_squared, share_of
from benchmarks.doctor.wide.tasks.layers import mlp, sines


class _Vae(Program):
    """An autoencoder with noise in its code; points are 100 · R² of the reconstruction from the mean code."""

    has_targets = False
    parts = ("encoder", "decoder")
    beta = 0.1
    code = 8
    x: Tensor
    val_x: Tensor

    def batch(self, size: int, generator: Generator) -> Batch:
        return (self.x[torch.randint(len(self.x), (size,), generator=generator)],)

    def loss(self, batch: Batch, network: str) -> Tensor:
        """Return the negative evidence lower bound per image, up to a constant, with a weighted divergence."""
        (x,) = batch
        mean, log_var = self.model.encoder(x).chunk(2, 1)
        z = mean + (0.5 * log_var).exp() * torch.randn_like(mean)
        divergence = 0.5 * (mean.square() + log_var.exp() - 1 - log_var).sum(1).mean()
        return F.mse_loss(self.model.decoder(z), x, reduction="sum") / (2 * len(x)) + self.beta * divergence

    def score(self) -> float:
        mean, _ = self.model.encoder(self.val_x).chunk(2, 1)
        return r_squared(self.model.decoder(mean), self.val_x)


class Vae(_Vae):
    """A variational autoencoder of digits."""

    head = "decoder.2"
    lr = 5e-3
    sgd_lr = 0.003

    def __init__(self, seed: int) -> None:
        self.x, _, self.val_x, _ = digits(seed)
        model = nn.Module()
        model.encoder, model.decoder = mlp(64, 64, 2 * self.code), mlp(self.code, 64, 64)
        self.networks = {"model": model}


class ConvVae(_Vae):
    """A convolutional one."""

    head = "decoder.5"
    lr = 5e-3
    sgd_lr = 0.004
    num_steps = 150
    batch_size = 32

    def __init__(self, seed: int) -> None:
        self.x, _, self.val_x, _ = images(seed)
        model = nn.Module()
        model.encoder = nn.Sequential(
            *(nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, 2, 1), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(64, 2 * self.code)),
        )
        model.decoder = nn.Sequential(
            *(nn.Linear(self.code, 64), nn.ReLU(), nn.Unflatten(1, (16, 2, 2))),
            *(nn.ConvTranspose2d(16, 16, 2, 2), nn.ReLU(), nn.ConvTranspose2d(16, 1, 2, 2)),
        )
        self.networks = {"model": model}


def energy_distance(a: Tensor, b: Tensor) -> float:
    """Return the energy distance of two samples (N, D) and (M, D) (Székely and Rizzo 2013)."""
    return (2 * torch.cdist(a, b).mean() - torch.cdist(a, a).mean() - torch.cdist(b, b).mean()).item()


class _Gan(Program):
    """A discriminator and a generator, each with its own optimizer.

    Points: how much of the energy distance between the data and zeros, which the generator begins near, is removed.
    """

    beta1 = 0.5

    has_targets = False
    head = ""
    noise = 8
    size = 2

    def __init__(self, seed: int) -> None:
        generator = generator_of(seed)
        self.x, self.val_x = self.data(2000, generator), self.data(500, generator)
        self.networks = {"discriminator": self.discriminator(), "generator": mlp(self.noise, 64, 64, self.size)}
        self.draws = Generator().manual_seed(seed)

    def data(self, count: int, generator: Generator) -> Tensor:
        raise NotImplementedError

    def discriminator(self) -> nn.Module:
        return mlp(self.size, 64, 64, 1, activation=nn.LeakyReLU)

    def batch(self, size: int, generator: Generator) -> Batch:
        return self.x[torch.randint(len(self.x), (size,), generator=generator)], torch.randn(
            size, self.noise, generator=generator
        )

    def score(self) -> float:
        made = self.networks["generator"](torch.randn(500, self.noise, generator=self.draws))
        start = energy_distance(torch.zeros_like(self.val_x), self.val_x)
        return share_of(energy_distance(made, self.val_x), start, 0.0)


class Gan(_Gan):
    """The GAN of Goodfellow et al. 2014 with the loss for the generator that does not saturate, on two moons."""

    lr = 2e-3
    sgd_lr = 0.004
    num_steps = 300
    parts = ("0", "2")

    def data(self, count: int, generator: Generator) -> Tensor:
        return 1.5 + moons(count, generator)

    def loss(self, batch: Batch, network: str) -> Tensor:
        real, noise = batch
        made, judge = self.networks["generator"](noise), self.networks["discriminator"]
        if network == "generator":
            return F.softplus(-judge(made)).mean()
        return F.softplus(-judge(real)).mean() + F.softplus(judge(made.detach())).mean()


class LeastSquaresGan(_Gan):
    """A GAN with squared errors as losses (Mao et al. 2017), on correlated numbers."""

    lr = 2e-3
    sgd_lr = 0.005
    num_steps = 250
    size = 6
    parts = ("0", "2")

    def data(self, count: int, generator: Generator) -> Tensor:
        mixing = torch.randn(3, self.size, generator=Generator().manual_seed(7))
        return 1.5 + torch.randn(count, 3, generator=generator) @ mixing / 2

    def loss(self, batch: Batch, network: str) -> Tensor:
        real, noise = batch
        made, judge = self.networks["generator"](noise), self.networks["discriminator"]
        if network == "generator":
            return (judge(made) - 1).square().mean()
        return (judge(real) - 1).square().mean() + judge(made.detach()).square().mean()


class _Diffusion(Program):
    """A network predicts the noise in a noisy example (Ho et al. 2020); points are 100 · R² of the noise."""

    has_targets = True
    prior_loss = 1.0
    x: Tensor
    val_x: Tensor

    def batch(self, size: int, generator: Generator) -> Batch:
        return self._noisy(self.x[torch.randint(len(self.x), (size,), generator=generator)], generator)

    @staticmethod
    def _noisy(x: Tensor, generator: Generator) -> Batch:
        t = torch.rand(len(x), generator=generator)
        noise = torch.randn(x.shape, generator=generator)
        signal = (0.5 * math.pi * t).cos().view(-1, *[1] * (x.dim() - 1))
        return signal * x + (1 - signal**2).sqrt() * noise, t, noise

    def loss(self, batch: Batch, network: str) -> Tensor:
        x, t, noise = batch
        return F.mse_loss(self.model(torch.cat([x, sines(t, 3)], 1)), noise)

    def score(self) -> float:
        x, t, noise = self._noisy(self.val_x, generator_of(0))
        return r_squared(self.model(torch.cat([x, sines(t, 3)], 1)), noise)


class DiffusionDigits(_Diffusion):
    """Diffusion of digits by an MLP."""

    head = "6"
    parts = ("0", "2", "6")
    num_steps = 300
    lr = 2e-3
    sgd_lr = 0.5

    def __init__(self, seed: int) -> None:
        self.x, _, self.val_x, _ = digits(seed)
        self.networks = {"model": mlp(70, 128, 128, 128, 64, activation=nn.SiLU)}


class DiffusionPoints(_Diffusion):
    """Diffusion of two moons."""

    head = "6"
    parts = ("0", "2", "6")
    num_steps = 200

    def __init__(self, seed: int) -> None:
        generator = generator_of(seed)
        self.x, self.val_x = moons(3000, generator), moons(1000, generator)
        self.networks = {"model": mlp(8, 64, 64, 64, 2, activation=nn.SiLU)}


class _Coupling(nn.Module):
    """An affine coupling layer (Dinh et al. 2017): x (N, D) to z (N, D) and log |det| (N,)."""

    def __init__(self, size: int, is_flipped: bool) -> None:
        super().__init__()
        self.net = mlp(size // 2, 48, size, activation=nn.Tanh)
        self.is_flipped = is_flipped

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        a, b = x.chunk(2, 1)
        a, b = (b, a) if self.is_flipped else (a, b)
        log_scale, shift = self.net(a).chunk(2, 1)
        log_scale = 2 * torch.tanh(log_scale / 2)
        b = b * log_scale.exp() + shift
        return torch.cat([b, a] if self.is_flipped else [a, b], 1), log_scale.sum(1)


class _Flow(Program):
    """A normalizing flow; points: how much of the gap from a Gaussian's likelihood to a good flow's is closed."""

    has_targets = False
    head = ""
    depth = 4
    gain = 0.5  # nats that a good flow gains on a Gaussian of the same mean and covariance, by measurement
    parts = ("0", "1")
    sgd_lr = 0.01
    lr = 5e-3
    x: Tensor
    val_x: Tensor

    def make(self, size: int) -> nn.Module:
        return nn.Sequential(*(_Coupling(size, i % 2 == 1) for i in range(self.depth)))

    def batch(self, size: int, generator: Generator) -> Batch:
        return (self.x[torch.randint(len(self.x), (size,), generator=generator)],)

    def loss(self, batch: Batch, network: str) -> Tensor:
        (z,) = batch
        total: Tensor | float = 0.0
        for layer in self.model.children():
            z, log_det = layer(z)
            total = total + log_det
        return (0.5 * z.square().sum(1) + 0.5 * z.shape[1] * math.log(2 * math.pi) - total).mean()

    def score(self) -> float:
        x = self.val_x
        gaussian = 0.5 * torch.linalg.slogdet(2 * math.pi * math.e * x.T.cov())[1].item()
        return share_of(self.loss((x,), "model").item(), gaussian + self.gain, gaussian - self.gain)


class FlowMoons(_Flow):
    """RealNVP on two moons."""

    depth = 6
    sgd_lr = 0.002
    num_steps = 250

    def __init__(self, seed: int) -> None:
        generator = generator_of(seed)
        self.x, self.val_x = moons(3000, generator), moons(1000, generator)
        self.networks = {"model": self.make(2)}


class FlowRings(_Flow):
    """RealNVP on four numbers, of which two lie on a ring."""

    depth = 4
    num_steps = 250
    gain = 0.6

    def __init__(self, seed: int) -> None:
        generator = generator_of(seed)
        self.x, self.val_x = self._rings(3000, generator), self._rings(1000, generator)
        self.networks = {"model": self.make(4)}

    @staticmethod
    def _rings(count: int, generator: Generator) -> Tensor:
        angle = 2 * math.pi * torch.rand(count, generator=generator)
        ring = 1.4 * torch.stack([angle.cos(), angle.sin()], 1) + 0.15 * torch.randn(count, 2, generator=generator)
        other = torch.randn(count, 2, generator=generator)
        bent = torch.stack([other[:, 0], 0.5 * other[:, 0] ** 2 - 0.5 + 0.3 * other[:, 1]], 1)
        return torch.cat([ring[:, :1], bent, ring[:, 1:]], 1)
