"""Training from a good start: fine-tuning, low-rank adapters."""

from __future__ import annotations

import copy
import functools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.doctor.wide.data import LETTERS, digits, images, text
from benchmarks.doctor.wide.program import Batch, Supervised, accuracy, entropy
from benchmarks.doctor.wide.tasks.layers import Body, Transformer, conv_block, mlp, seeded, train_quietly


@functools.lru_cache(maxsize=3)
def _pretrained_mlp(seed: int) -> nn.Module:
    x, y, *_ = digits(seed)
    with seeded(seed):
        model = Body(nn.Sequential(*mlp(64, 64, 64), nn.ReLU()), nn.Linear(64, 10))
        train_quietly(model, x, y, 150, 3e-3)
    return model


@functools.lru_cache(maxsize=3)
def _pretrained_cnn(seed: int) -> nn.Module:
    x, y, *_ = images(seed)
    with seeded(seed):
        pooled = nn.AdaptiveAvgPool2d(2)
        body = nn.Sequential(conv_block(1, 8), conv_block(8, 16, 2), conv_block(16, 16), pooled, nn.Flatten())
        model = Body(body, nn.Linear(64, 10))
        train_quietly(model, x, y, 100, 3e-3)
    return model


@functools.lru_cache(maxsize=3)
def _pretrained_text(seed: int) -> nn.Module:
    windows, _ = text(25, seed)
    with seeded(seed):
        model = Transformer(len(LETTERS), 24, 32, 2, len(LETTERS), is_causal=True)
        train_quietly(model, windows[:, :-1], windows[:, 1:], 200, 3e-3)
    return model


class FineTuning(Supervised):
    """All weights of a trained network at a small rate, on the same images with noise: there is little to learn."""

    activation = "softmax"
    parts = ("body.0", "body.2", "head")
    frozen = ("body",)
    lr = 5e-4
    sgd_lr = 0.01

    def __init__(self, seed: int) -> None:
        self.x, self.y, self.val_x, self.val_y = digits(seed)
        self.networks = {"model": copy.deepcopy(_pretrained_mlp(seed))}
        self.prior_loss = entropy(self.y)

    def loss(self, batch: Batch, network: str) -> Tensor:
        return F.cross_entropy(self.model(batch[0]), batch[1])

    def score(self) -> float:
        return accuracy(self.model(self.val_x), self.val_y)


class NewHead(Supervised):
    """A trained CNN with batch norm gets a new head, to tell turned digits from upright ones by class."""

    activation = "softmax"
    parts = ("body.2", "head")
    frozen = ("body.0", "body.1")
    lr = 2e-3
    sgd_lr = 0.02
    num_steps = 120
    batch_size = 32
    has_modes = has_batch_norm = True

    def __init__(self, seed: int) -> None:
        x, y, val_x, val_y = images(seed)
        self.x, self.y = torch.cat([x, x.rot90(1, (2, 3))]), torch.cat([y, 10 + y])
        self.val_x, self.val_y = torch.cat([val_x, val_x.rot90(1, (2, 3))]), torch.cat([val_y, 10 + val_y])
        model = copy.deepcopy(_pretrained_cnn(seed))
        model.head = nn.Linear(64, 20)
        self.networks = {"model": model}
        self.prior_loss = entropy(self.y)

    def loss(self, batch: Batch, network: str) -> Tensor:
        return F.cross_entropy(self.model(batch[0]), batch[1])

    def score(self) -> float:
        return accuracy(self.model(self.val_x), self.val_y)


class LowRank(nn.Module):
    """A frozen linear layer plus a product of two thin matrices, the second zero at first (Hu et al. 2021)."""

    def __init__(self, base: nn.Linear, rank: int = 4) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Linear(base.in_features, rank, bias=False)
        self.up = nn.Linear(rank, base.out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + 2.0 * self.up(self.down(x))


def add_adapters_(model: nn.Module, leave: str) -> None:
    """Freeze a model and give each of its linear layers an adapter, except the one called `leave`."""
    model.requires_grad_(False)
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear) and name != leave:
                setattr(module, name, LowRank(child))


class LoraDigits(Supervised):
    """Adapters in a frozen MLP learn digits whose pixels are reversed; the head is trained too."""

    activation = "softmax"
    parts = ("body.0", "head")
    lr = 5e-3
    sgd_lr = 0.02

    def __init__(self, seed: int) -> None:
        x, self.y, val_x, self.val_y = digits(seed)
        self.x, self.val_x = x.flip(1), val_x.flip(1)
        model = copy.deepcopy(_pretrained_mlp(seed))
        add_adapters_(model, "head")
        model.head.requires_grad_(True)
        self.networks = {"model": model}
        self.prior_loss = entropy(self.y)

    def loss(self, batch: Batch, network: str) -> Tensor:
        return F.cross_entropy(self.model(batch[0]), batch[1])

    def score(self) -> float:
        return accuracy(self.model(self.val_x), self.val_y)


class LoraText(Supervised):
    """Adapters in a frozen language model learn the text with its letters turned around."""

    activation = "softmax"
    parts = ("blocks.0", "blocks.1")
    lr = 1e-2
    sgd_lr = 0.1
    num_steps = 120
    batch_size = 32
    has_float_inputs = False

    def __init__(self, seed: int) -> None:
        windows, val = (part.flip(1) for part in text(25, seed))
        self.x, self.y, self.val_x, self.val_y = windows[:, :-1], windows[:, 1:], val[:, :-1], val[:, 1:]
        model = copy.deepcopy(_pretrained_text(seed))
        add_adapters_(model, "head")
        model.embed.requires_grad_(True)
        self.networks = {"model": model}
        self.prior_loss = entropy(self.y)

    def loss(self, batch: Batch, network: str) -> Tensor:
        return F.cross_entropy(self.model(batch[0]).flatten(0, 1), batch[1].flatten())

    def score(self) -> float:
        """Return the share of the prior loss that is removed, of the half that can be."""
        return min(100.0, 200.0 * max(0.0, 1 - self.loss((self.val_x, self.val_y), "model").item() / self.prior_loss))
