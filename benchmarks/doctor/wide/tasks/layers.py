"""Small networks that several programs share."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn


def mlp(*widths: int, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Return linear layers with an activation after each but the last."""
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), activation()]
    return nn.Sequential(*layers[:-1])


class Body(nn.Module):
    """A body and a head, one after the other."""

    def __init__(self, body: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.body, self.head = body, head

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


class Block(nn.Module):
    """A transformer block with layer norm first: x (N, T, width)."""

    def __init__(self, width: int, heads: int = 2, is_causal: bool = False) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.heads, self.is_causal = heads, is_causal

    def forward(self, x: Tensor) -> Tensor:
        n, t, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(n, t, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=self.is_causal)
        x = x + self.out(mixed.transpose(1, 2).reshape(n, t, width))
        return x + self.mlp(self.norm2(x))


class Transformer(nn.Module):
    """Symbols (N, T) to outputs (N, T, num_outputs)."""

    def __init__(
        self, num_symbols: int, length: int, width: int, depth: int, num_outputs: int, is_causal: bool = False
    ) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(num_symbols, width), nn.Embedding(length, width)
        nn.init.normal_(self.embed.weight, std=0.1)
        nn.init.normal_(self.place.weight, std=0.1)
        self.blocks = nn.ModuleList(Block(width, is_causal=is_causal) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x) + self.place.weight[: x.shape[1]]
        for block in self.blocks:
            h = block(h)
        return self.head(self.norm(h))


def conv_block(before: int, after: int, stride: int = 1, norm: bool = True) -> nn.Sequential:
    """Return a 3 × 3 convolution, batch norm and ReLU."""
    layers = [nn.Conv2d(before, after, 3, stride, 1, bias=not norm)]
    return nn.Sequential(*layers, *([nn.BatchNorm2d(after)] if norm else []), nn.ReLU())


def sines(t: Tensor, count: int) -> Tensor:
    """Return sines and cosines (N, 2 · count) of times (N,) in [0, 1]."""
    angles = t[:, None] * math.pi * 2.0 ** torch.arange(count)
    return torch.cat([angles.sin(), angles.cos()], 1)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from a seed of its own; the global random state is as before: the start may or may not be cached."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        yield


def train_quietly(
    model: nn.Module, x: Tensor, y: Tensor, num_steps: int, lr: float, parts: Sequence[nn.Module] = ()
) -> None:
    """Train a classifier by Adam: the good start of a program that is fine-tuned."""
    parameters = [p for part in (parts or [model]) for p in part.parameters()]
    optimizer = torch.optim.Adam(parameters, lr, fused=True)
    for _ in range(num_steps):
        rows = torch.randint(len(x), (64,))
        optimizer.zero_grad()
        outputs = model(x[rows])
        nn.functional.cross_entropy(outputs.flatten(0, -2), y[rows].flatten()).backward()
        optimizer.step()
