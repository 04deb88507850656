"""The learning rate finder: a rate that trains, and nothing changed by the search."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from stabletrain.data import Digits
from stabletrain.network import MLP
from stabletrain.training import TrainingModule
from stabletrain.training.datamodule import DataModule
from stabletrain.training.optimization.lr_finder import MAX_LR, MIN_LR, find_lr

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*lr_scheduler.step.*before.*optimizer.step.*"),
]


@pytest.mark.parametrize("optimizer", [partial(torch.optim.Adam, lr=1e-5), partial(torch.optim.SGD, lr=1e-5)])
def test_finds_a_rate_that_trains_and_leaves_all_as_it_was(optimizer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    module = TrainingModule(MLP(64, 10), "classification", 10, optimizer)
    before = [p.detach().clone() for p in module.parameters()]
    generator = torch.get_rng_state()
    found = find_lr(module, DataModule(Digits()), 1e-5, "cpu")
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))
    assert torch.equal(torch.get_rng_state(), generator)
    assert list(tmp_path.iterdir()) == []
    assert type(module) is TrainingModule
    assert MIN_LR < found.lr < found.highest <= MAX_LR
    assert 20 < found.num_steps <= 100
    losses = {lr: train(optimizer, lr) for lr in (1e-5, found.lr)}
    assert losses[found.lr] < 0.5 * losses[1e-5]


def train(optimizer, lr):
    torch.manual_seed(0)
    network, data = MLP(64, 10), Digits()
    stepper = type(optimizer)(optimizer.func, network.parameters(), lr=lr)()
    x, y = data.train.tensors
    for step in range(100):
        rows = slice(32 * (step % 39), 32 * (step % 39) + 32)
        stepper.zero_grad()
        torch.nn.functional.cross_entropy(network(x[rows]), y[rows]).backward()
        stepper.step()
    return torch.nn.functional.cross_entropy(network(x), y).item()
