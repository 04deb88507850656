"""Tables: mixed features, heavy tails, targets without a scale, quantiles, ordered classes, several tasks at once."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from benchmarks.doctor.wide.data import digits, generator_of
from benchmarks.doctor.wide.program import Batch, Program, Supervised, accuracy, entropy, r_squared
from benchmarks.doctor.wide.tasks.layers import Body, mlp


def made_table(count: int, generator: Generator, num_features: int = 8) -> tuple[Tensor, Tensor]:
    """Return numbers (count, num_features) and a smooth function of them (count, 1), about standardized."""
    x = torch.randn(count, num_features, generator=generator)
    y = (1.5 * x[:, 0]).sin() + x[:, 1] * x[:, 2] + 0.5 * x[:, 3] + 0.5 * x[:, 4].abs()
    return x, ((y - y.mean()) / y.std())[:, None]


class _Regression(Supervised):
    """Points are 100 · R² of the targets without noise."""

    parts = ("body.0", "body.2", "head")
    has_column = True
    num_steps = 250
    sgd_lr = 0.02

    def __init__(self, seed: int) -> None:
        generator = generator_of(seed)
        x, y = made_table(2500, generator)
        y = self.scaled(y)
        self.x, self.y, self.val_x, self.val_y = x[500:], self.noisy(y[500:], generator), x[:500], y[:500]
        self.networks = {"model": Body(nn.Sequential(*mlp(8, 64, 64), nn.ReLU()), nn.Linear(64, 1))}

    def scaled(self, y: Tensor) -> Tensor:
        return y

    def noisy(self, y: Tensor, generator: Generator) -> Tensor:
        return y + 0.2 * torch.randn(y.shape, generator=generator)

    def loss(self, batch: Batch, network: str) -> Tensor:
        return F.mse_loss(self.model(batch[0]), batch[1])

    def score(self) -> float:
        return r_squared(self.model(self.val_x), self.val_y)


class HeavyTails(_Regression):
    """Noise with two degrees of freedom, whose variance is infinite, under the Huber loss."""

    def noisy(self, y: Tensor, generator: Generator) -> Tensor:
        normal = torch.randn(3, *y.shape, generator=generator)
        return y + 0.3 * normal[0] / normal[1:].square().mean(0).sqrt()

    def loss(self, batch: Batch, network: str) -> Tensor:
        return F.huber_loss(self.model(batch[0]), batch[1])


class HeavyTailsSquared(HeavyTails):
    """The same under squared errors with three degrees of freedom: single examples make the loss jump."""

    def noisy(self, y: Tensor, generator: Generator) -> Tensor:
        normal = torch.randn(4, *y.shape, generator=generator)
        return y + 0.3 * normal[0] / normal[1:].square().mean(0).sqrt()

    def loss(self, batch: Batch, network: str) -> Tensor:
        return F.mse_loss(self.model(batch[0]), batch[1])


class Unscaled(_Regression):
    """Targets with a mean of 8 and a spread of 6, as they came: the loss begins at 100."""

    lr = 1e-2
    sgd_lr = 1e-3

    def scaled(self, y: Tensor) -> Tensor:
        return 8.0 + 6.0 * y

    def noisy(self, y: Tensor, generator: Generator) -> Tensor:
        return y + torch.randn(y.shape, generator=generator)


class Quantiles(_Regression):
    """The quantiles 0.1, 0.5 and 0.9 by the pinball loss (Koenker and Bassett 1978); points from the median."""

    has_column = False
    sgd_lr = 0.15
    levels = torch.tensor([0.1, 0.5, 0.9])

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.model.head = nn.Linear(64, 3)

    def loss(self, batch: Batch, network: str) -> Tensor:
        error = batch[1] - self.model(batch[0])
        return torch.maximum(self.levels * error, (self.levels - 1) * error).mean()

    def score(self) -> float:
        return r_squared(self.model(self.val_x)[:, 1:2], self.val_y)


class Ordinal(_Regression):
    """Five ordered classes by four cumulative sigmoids (Cao et al. 2020); points: R² of the class."""

    has_column = False
    activation = "sigmoid"
    sgd_lr = 0.2
    cuts = torch.tensor([-0.9, -0.3, 0.3, 0.9])

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.y, self.val_y = (self.y > self.cuts).float(), (self.val_y > self.cuts).float()
        self.model.head = nn.Linear(64, 4)
        self.prior_loss = F.binary_cross_entropy(self.y.mean(0).expand_as(self.y), self.y).item()

    def loss(self, batch: Batch, network: str) -> Tensor:
        return F.binary_cross_entropy_with_logits(self.model(batch[0]), batch[1])

    def score(self) -> float:
        return r_squared((self.model(self.val_x) > 0).float().sum(1), self.val_y.sum(1))


class _MixedNet(nn.Module):
    def __init__(self, num_levels: list[int], num_numbers: int, norm: bool) -> None:
        super().__init__()
        self.embeds = nn.ModuleList(nn.Embedding(n, 6) for n in num_levels)
        self.numbers = nn.Linear(num_numbers, 24)
        width = 24 + 6 * len(num_levels)
        self.norm = nn.BatchNorm1d(width) if norm else nn.Identity()
        self.body = nn.Sequential(nn.Linear(width, 48), nn.ReLU(), nn.Dropout(0.1), nn.Linear(48, 48), nn.ReLU())
        self.head = nn.Linear(48, 2)

    def forward(self, numbers: Tensor, levels: Tensor) -> Tensor:
        embedded = [embed(levels[:, i]) for i, embed in enumerate(self.embeds)]
        return self.head(self.body(self.norm(torch.cat([self.numbers(numbers), *embedded], 1))))


class MixedTable(Program):
    """Numbers and categories, two classes."""

    activation = "softmax"
    parts = ("numbers", "body.0", "head")
    frozen = ("embeds",)
    has_modes = True
    num_steps = 200
    has_norm = False
    shift = 0.0  # of the threshold between the classes

    def __init__(self, seed: int) -> None:
        generator = generator_of(seed)
        self.x, self.levels, self.y = self._made(2500, generator)
        self.val_x, self.val_levels, self.val_y = self._made(600, generator)
        self.networks = {"model": _MixedNet([4, 7, 12], 6, self.has_norm)}
        self.prior_loss = entropy(self.y)

    def _made(self, count: int, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
        effects = torch.randn(3, 12, generator=torch.Generator().manual_seed(3))
        x = torch.randn(count, 6, generator=generator)
        levels = torch.stack([torch.randint(n, (count,), generator=generator) for n in (4, 7, 12)], 1)
        total = (
            (x[:, 0] * x[:, 1])
            + x[:, 2]
            + effects.gather(1, levels.T).sum(0)
            + 0.2 * torch.randn(count, generator=generator)
        )
        return x, levels, (total > self.shift).long()

    def batch(self, size: int, generator: Generator) -> Batch:
        rows = torch.randint(len(self.x), (size,), generator=generator)
        return self.x[rows], self.levels[rows], self.y[rows]

    def loss(self, batch: Batch, network: str) -> Tensor:
        return F.cross_entropy(self.model(*batch[:2]), batch[2])

    def score(self) -> float:
        """Return the mean of both classes' recall, scaled so that chance is 0."""
        said = self.model(self.val_x, self.val_levels).argmax(1)
        recalls = [(said[self.val_y == c] == c).float().mean().item() for c in (0, 1)]
        return max(0.0, 100.0 * (sum(recalls) - 1))


class RareClass(MixedTable):
    """One class in seven, weighted, with batch norm."""

    has_norm = True
    shift = 2.6

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.prior_loss = None
        share = self.y.float().mean()
        self.weight = torch.stack([0.5 / (1 - share), 0.5 / share])

    def loss(self, batch: Batch, network: str) -> Tensor:
        return F.cross_entropy(self.model(*batch[:2]), batch[2], self.weight)


class _TwoHeads(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 48), nn.ReLU())
        self.head, self.amount = nn.Linear(48, num_classes), nn.Linear(48, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.body(x)
        return self.head(h), self.amount(h)


class TwoTasks(Program):
    """The class of a digit and where its ink is, with the weights of a sum; points are the mean of both tasks."""

    parts = ("body.0", "head", "amount")
    activation = "softmax"
    has_column = True

    def __init__(self, seed: int) -> None:
        self.x, self.classes, self.val_x, self.val_classes = digits(seed)
        self.y, self.val_y = self.amounts(self.x), self.amounts(self.val_x)
        self.networks = {"model": _TwoHeads(10)}

    def amounts(self, x: Tensor) -> Tensor:
        ink = x.view(-1, 8, 8)
        height = (ink[:, :4].mean((1, 2)) - ink[:, 4:].mean((1, 2)))[:, None]
        return height / 0.25

    def batch(self, size: int, generator: Generator) -> Batch:
        rows = torch.randint(len(self.x), (size,), generator=generator)
        return self.x[rows], self.classes[rows], self.y[rows]

    def loss(self, batch: Batch, network: str) -> Tensor:
        logits, amount = self.model(batch[0])
        return F.cross_entropy(logits, batch[1]) + 0.5 * F.mse_loss(amount, batch[2])

    def score(self) -> float:
        logits, amount = self.model(self.val_x)
        return 0.5 * (accuracy(logits, self.val_classes) + r_squared(amount, self.val_y))


class LearnedWeights(TwoTasks):
    """The same with learned weights of the two losses (Kendall et al. 2018), and left against right."""

    sgd_lr = 0.02

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.model.log_variances = nn.Parameter(torch.zeros(2))

    def amounts(self, x: Tensor) -> Tensor:
        ink = x.view(-1, 8, 8)
        return (ink[:, :, :4].mean((1, 2)) - ink[:, :, 4:].mean((1, 2)))[:, None] / 0.2

    def loss(self, batch: Batch, network: str) -> Tensor:
        logits, amount = self.model(batch[0])
        losses = torch.stack([F.cross_entropy(logits, batch[1]), F.mse_loss(amount, batch[2])])
        log_variances = self.model.log_variances
        return ((-log_variances).exp() * losses + 0.5 * log_variances).sum()


class CountData(_Regression):
    """Counts under the Poisson loss, with the logarithm of the rate as output; points: R² of that logarithm."""

    has_column = False
    head = "head"

    def scaled(self, y: Tensor) -> Tensor:
        return 0.7 * y.clamp(-2, 2) + math.log(3.0)

    def noisy(self, y: Tensor, generator: Generator) -> Tensor:
        return torch.poisson(y.exp(), generator=generator)

    def loss(self, batch: Batch, network: str) -> Tensor:
        return F.poisson_nll_loss(self.model(batch[0]), batch[1])
