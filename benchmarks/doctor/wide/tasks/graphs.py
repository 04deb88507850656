"""Graph networks: classes of nodes, and of whole graphs."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from benchmarks.doctor.wide.data import generator_of
from benchmarks.doctor.wide.program import Batch, Program, Supervised, accuracy, entropy


class _Gcn(nn.Module):
    """Two graph convolutions (Kipf and Welling 2017)."""

    def __init__(self, num_features: int, width: int, num_classes: int) -> None:
        super().__init__()
        self.first, self.act, self.drop = nn.Linear(num_features, width), nn.ReLU(), nn.Dropout(0.3)
        self.head = nn.Linear(width, num_classes)

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        return adjacency @ self.head(self.drop(self.act(adjacency @ self.first(x))))


class GraphNodes(Program):
    """Communities of a random graph, from weak features and a fifth of the labels; every batch is the whole graph."""

    activation = "softmax"
    parts = ("first", "head")
    lr = 1e-2
    sgd_lr = 0.1
    num_steps = 150
    has_modes = True
    num_nodes, num_classes, num_features = 300, 4, 16

    def __init__(self, seed: int) -> None:
        generator = generator_of(seed)
        self.y = torch.randint(self.num_classes, (self.num_nodes,), generator=generator)
        chance = torch.where(self.y[:, None] == self.y[None], 0.08, 0.01)
        edges = (torch.rand(chance.shape, generator=generator) < chance).float().triu(1)
        edges = edges + edges.T + torch.eye(self.num_nodes)
        scale = edges.sum(1).rsqrt()
        self.adjacency = scale[:, None] * edges * scale[None]
        centers = torch.randn(self.num_classes, self.num_features, generator=generator)
        self.x = 0.4 * centers[self.y] + torch.randn(self.num_nodes, self.num_features, generator=generator)
        self.val_x, self.known = self.x, torch.rand(self.num_nodes, generator=generator) < 0.2
        self.networks = {"model": _Gcn(self.num_features, 24, self.num_classes)}
        self.prior_loss = entropy(self.y[self.known])

    def batch(self, size: int, generator: Generator) -> Batch:
        return self.x, self.y[self.known]

    def loss(self, batch: Batch, network: str) -> Tensor:
        return F.cross_entropy(self.model(batch[0], self.adjacency)[self.known], batch[1])

    def score(self) -> float:
        return accuracy(self.model(self.val_x, self.adjacency)[~self.known], self.y[~self.known])


class _Gin(nn.Module):
    """Two layers of a graph isomorphism network (Xu et al. 2019), with sums over neighbors."""

    def __init__(self, num_features: int, width: int, num_classes: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(num_features, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.second = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.head = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        features, edges = x.split([x.shape[-1] - x.shape[1], x.shape[1]], 2)
        h = self.first(features + edges @ features)
        return self.head(self.second(h + edges @ h).mean(1))


class WholeGraphs(Supervised):
    """Rings, stars, trees and random graphs of ten nodes, told apart; x has features and edges side by side."""

    activation = "softmax"
    parts = ("first.0", "second.0", "head")
    num_steps = 200
    sgd_lr = 0.02
    batch_size = 32
    num_nodes = 10

    def __init__(self, seed: int) -> None:
        generator = generator_of(seed)
        self.y, self.val_y = (torch.randint(4, (n,), generator=generator) for n in (800, 300))
        self.x, self.val_x = (
            torch.stack([self._graph(c, generator) for c in y.tolist()]) for y in (self.y, self.val_y)
        )
        self.networks = {"model": _Gin(4, 32, 4)}
        self.prior_loss = entropy(self.y)

    def _graph(self, kind: int, generator: Generator) -> Tensor:
        n = self.num_nodes
        edges, order = torch.zeros(n, n), torch.randperm(n, generator=generator)
        for i in range(1, n):
            parent = [i - 1, 0, (i - 1) // 2, int(torch.randint(i, (1,), generator=generator))][kind]
            edges[order[i], order[parent]] = edges[order[parent], order[i]] = 1.0
        extra = torch.randint(n, (2, 1), generator=generator)
        edges[extra[0], extra[1]] = edges[extra[1], extra[0]] = 1.0
        features = torch.randn(n, 4, generator=generator) * 0.3 + 1.0
        return torch.cat([features, edges], 1)

    def loss(self, batch: Batch, network: str) -> Tensor:
        return F.cross_entropy(self.model(batch[0]), batch[1])

    def score(self) -> float:
        return accuracy(self.model(self.val_x), self.val_y)
