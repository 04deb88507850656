"""Outputs and targets that are broadcast."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.inspection.mistakes.training_loops import N, kinds, mlp, train

CERTAIN = ("shape_mismatch", "certain")
MISTAKES = {
    "mse": lambda m, x, y: F.mse_loss(m(x), y.float()),
    "l1": lambda m, x, y: F.l1_loss(m(x), y.float()),
    "smooth": lambda m, x, y: F.smooth_l1_loss(m(x), y.float()),
    "huber": lambda m, x, y: F.huber_loss(m(x), y.float(), reduction="sum"),
    "by hand": lambda m, x, y: ((m(x) - y) ** 2).mean(),
    "reversed": lambda m, x, y: (y - m(x)).square().mean(),
    "absolute": lambda m, x, y: (m(x) - y).abs().mean(),
    "column of targets": lambda m, x, y: F.mse_loss(m(x).squeeze(-1), y[:, None].float()),
    "gathered": lambda m, x, y: ((torch.cat([m(x), m(x)], 1).gather(1, y[:, None] % 2) - y) ** 2).mean(),
    "weighted": lambda m, x, y: F.mse_loss(m(x), y.float()) * 3 + m(x).square().mean(),
}


@pytest.mark.filterwarnings("ignore:Using a target size")
@pytest.mark.parametrize("name", MISTAKES)
def test_a_broadcast_is_named(name):
    found = train(mlp(outputs=1), MISTAKES[name], num_steps=3)
    assert kinds(found) == [CERTAIN]
    evidence = found[CERTAIN].evidence
    assert evidence["broadcast"] == [N, N]
    shapes = ([N], [N, 1]) if name == "column of targets" else ([N, 1], [N])
    assert (evidence["outputs"], evidence["targets"]) == shapes


class Distances(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = mlp(outputs=1)

    def forward(self, x):
        h = self.net(x)
        return ((h[:, None] - h[None]) ** 2).sum(-1)


CENTERS = torch.linspace(-1, 1, N)
HEALTHY = {
    "columns": lambda m, x, y: F.mse_loss(m(x), y[:, None].float()),
    "rows": lambda m, x, y: F.mse_loss(m(x).squeeze(-1), y.float()),
    "by hand": lambda m, x, y: ((m(x).squeeze() - y) ** 2).mean(),
    "pairs": lambda m, x, y: ((m(x) - m(x).T) ** 2).mean(),
    "distances": lambda m, x, y: ((m(x).squeeze(1)[:, None] - m(x).squeeze(1)[None]).abs()).mean(),
    "centers": lambda m, x, y: ((m(x).squeeze(1)[:, None] - CENTERS[None]) ** 2).mean(),
    "one target for all": lambda m, x, y: ((m(x) - 1.0) ** 2).mean() + (m(x) - torch.ones(1)).abs().mean(),
    "mean of each feature": lambda m, x, y: ((m(x) - m(x).mean(0)) ** 2).mean(),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_shapes_that_fit_raise_nothing(name):
    assert kinds(train(mlp(outputs=1), HEALTHY[name], num_steps=3)) == []


def test_distances_within_a_model():
    assert kinds(train(Distances(), lambda m, x, y: F.mse_loss(m(x), torch.zeros(N, N)), num_steps=3)) == []
