"""Similarity: contrastive learning, two towers, siamese networks, matrix factorization."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from benchmarks.doctor.wide.data import digits, generator_of
from benchmarks.doctor.wide.program import Batch, Program, Supervised, r_squared
from benchmarks.doctor.wide.tasks.layers import Body, mlp

TEMPERATURE = 0.2


def info_nce(a: Tensor, b: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """Return the loss of finding each row's partner (van den Oord et al. 2018); a, b (N, D)."""
    similarity = F.normalize(a, dim=1) @ F.normalize(b, dim=1).T / temperature
    rows = torch.arange(len(a))
    return 0.5 * (F.cross_entropy(similarity, rows) + F.cross_entropy(similarity.T, rows))


def found_partners(a: Tensor, b: Tensor) -> float:
    """Return 100 times the share of rows whose most similar row is their partner, in groups of 40."""
    shares = []
    for x, y in zip(a.split(40), b.split(40), strict=True):
        similarity = F.normalize(x, dim=1) @ F.normalize(y, dim=1).T
        shares.append((similarity.argmax(1) == torch.arange(len(x))).float().mean().item())
    return 100.0 * sum(shares) / len(shares)


class SimClr(Program):
    """Two noisy, partly hidden views of each digit find each other (Chen et al. 2020)."""

    has_targets = False
    parts = ("body.0", "body.2", "head")
    sgd_lr = 0.1
    num_steps = 250

    def __init__(self, seed: int) -> None:
        self.x, _, self.val_x, _ = digits(seed)
        body = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 96), nn.ReLU())
        self.networks = {"model": Body(body, nn.Linear(96, 24))}

    @staticmethod
    def _view(x: Tensor, generator: Generator) -> Tensor:
        kept = torch.rand(x.shape, generator=generator) < 0.7
        return x * kept + 0.3 * torch.randn(x.shape, generator=generator)

    def batch(self, size: int, generator: Generator) -> Batch:
        x = self.x[torch.randint(len(self.x), (size,), generator=generator)]
        return self._view(x, generator), self._view(x, generator)

    def loss(self, batch: Batch, network: str) -> Tensor:
        return info_nce(self.model(batch[0]), self.model(batch[1]))

    def score(self) -> float:
        generator = generator_of(0)
        return found_partners(
            self.model(self._view(self.val_x, generator)), self.model(self._view(self.val_x, generator))
        )


class TwoTowers(Program):
    """Two encoders match the upper half of a digit with its lower half, as CLIP matches images and texts."""

    has_targets = False
    head = ""
    parts = ("upper", "lower")
    num_steps = 250
    sgd_lr = 0.05

    def __init__(self, seed: int) -> None:
        self.x, _, self.val_x, _ = digits(seed)
        model = nn.Module()
        model.upper, model.lower = mlp(32, 64, 16), mlp(32, 64, 16)
        model.log_scale = nn.Parameter(torch.tensor(1.6))  # learned temperature
        self.networks = {"model": model}

    def batch(self, size: int, generator: Generator) -> Batch:
        return (self.x[torch.randint(len(self.x), (size,), generator=generator)],)

    def _codes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.model.upper(x[:, :32]), self.model.lower(x[:, 32:])

    def loss(self, batch: Batch, network: str) -> Tensor:
        return info_nce(*self._codes(batch[0]), (-self.model.log_scale).exp())

    def score(self) -> float:
        return found_partners(*self._codes(self.val_x))


class Siamese(Supervised):
    """Two copies of one network say whether two digits are the same, by a margin (Hadsell et al. 2006)."""

    parts = ("body.0", "body.2", "head")
    num_steps = 250
    sgd_lr = 0.02

    def __init__(self, seed: int) -> None:
        x, y, val_x, val_y = digits(seed)
        self.x, self.y = self._pairs(x, y, 6000, generator_of(seed))
        self.val_x, self.val_y = self._pairs(val_x, val_y, 600, generator_of(seed + 1))
        self.networks = {"model": Body(nn.Sequential(*mlp(64, 64, 64), nn.ReLU()), nn.Linear(64, 8))}

    @staticmethod
    def _pairs(x: Tensor, y: Tensor, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        first, second = torch.randint(len(x), (2, 6 * count), generator=generator)
        same = y[first] == y[second]
        rows = torch.cat([same.nonzero()[: count // 2, 0], (~same).nonzero()[: count // 2, 0]])
        return torch.stack([x[first[rows]], x[second[rows]]], 1), same[rows].float()

    def _distance(self, x: Tensor) -> Tensor:
        codes = self.model(x.flatten(0, 1)).view(len(x), 2, -1)
        return ((codes[:, 0] - codes[:, 1]).square().sum(1) + 1e-6).sqrt()

    def loss(self, batch: Batch, network: str) -> Tensor:
        distance, same = self._distance(batch[0]), batch[1]
        return (same * distance.square() + (1 - same) * F.relu(2.0 - distance).square()).mean()

    def score(self) -> float:
        """Return 100 times (2 · share of pairs told right by the distance of 1 - 1): 0 for chance."""
        right = ((self._distance(self.val_x) < 1.0) == (self.val_y > 0.5)).float().mean().item()
        return max(0.0, 200.0 * (right - 0.5))


class _Factors(nn.Module):
    def __init__(self, num_users: int, num_items: int) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(num_users, 8), nn.Embedding(num_items, 8)
        self.user_bias, self.item_bias = nn.Embedding(num_users, 1), nn.Embedding(num_items, 1)
        for table in (self.users, self.items):
            nn.init.normal_(table.weight, std=0.3)
        for table in (self.user_bias, self.item_bias):
            nn.init.zeros_(table.weight)

    def forward(self, pairs: Tensor) -> Tensor:
        user, item = pairs.unbind(1)
        dot = (self.users(user) * self.items(item)).sum(1, keepdim=True)
        return dot + self.user_bias(user) + self.item_bias(item)


class Recommender(Supervised):
    """Ratings by the dot products of embeddings; points are 100 · R² on unseen pairs."""

    head = ""
    parts = ("users", "items")
    lr = 2e-2
    sgd_lr = 1.0
    num_steps = 300
    batch_size = 128
    has_float_inputs = False
    has_column = True

    def __init__(self, seed: int) -> None:
        generator = generator_of(seed)
        users, items = torch.randn(60, 3, generator=generator), torch.randn(50, 3, generator=generator)
        pairs = torch.cartesian_prod(torch.arange(60), torch.arange(50))[torch.randperm(3000, generator=generator)]
        y = (users[pairs[:, 0]] * items[pairs[:, 1]]).sum(1, keepdim=True) / 3**0.5 + users[pairs[:, 0], :1]
        y = y / y.std() + 0.2 * torch.randn(y.shape, generator=generator)
        self.x, self.y, self.val_x, self.val_y = pairs[500:], y[500:], pairs[:500], y[:500]
        self.networks = {"model": _Factors(60, 50)}
        self.prior_loss = y.var().item()

    def loss(self, batch: Batch, network: str) -> Tensor:
        return F.mse_loss(self.model(batch[0]), batch[1])

    def score(self) -> float:
        return r_squared(self.model(self.val_x), self.val_y)
