"""Muon beside AdamW, and which parameters decay."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from stabletrain.errors import RequestError
from stabletrain.network import MLP, Parts
from stabletrain.network.residual import LayerScaleResidual, ReZeroResidual
from stabletrain.training import Muon
from stabletrain.training.optimization.parameter_groups import group_parameters


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 5), nn.Linear(5, 3))


def take_step(model, optimizer, seed=0):
    x = torch.randn(7, 1, 4, 4, generator=torch.Generator().manual_seed(seed))
    optimizer.zero_grad()
    model(x).square().mean().backward()
    optimizer.step()


def test_hidden_matrices_take_torchs_muon_and_all_else_takes_adamw():
    ours, reference = network(), network()
    optimizer = Muon(ours.parameters(), lr=0.02, weight_decay=0.1)
    weights = dict(reference.named_parameters())
    hidden = [weights.pop("2.weight"), weights.pop("4.weight")]
    muon = torch.optim.Muon(hidden, 0.02, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(weights.values(), 0.02, weight_decay=0.1)
    for seed in range(3):
        take_step(ours, optimizer, seed)
        muon.zero_grad()
        take_step(reference, adamw, seed)
        muon.step()
    # the reference zeroes its gradients together: both read the gradient of the same pass
    for (name, a), b in zip(ours.named_parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(a, b, msg=name)


def test_a_step_of_muon_is_orthogonal():
    weight, head = nn.Parameter(torch.randn(16, 8)), nn.Parameter(torch.randn(4, 16))
    before = weight.detach().clone()
    weight.grad, head.grad = torch.randn(16, 8), torch.zeros(4, 16)
    Muon([weight, head], lr=1.0, weight_decay=0.0).step()
    singular = torch.linalg.svdvals((before - weight).detach() / (0.2 * 16**0.5))
    assert singular.min() > 0.6  # Newton–Schulz of five steps brings all singular values into 0.68 … 1.13
    assert singular.max() < 1.2


def test_state_is_restored_and_shared():
    straight, interrupted = network(), network()
    first = Muon(straight.parameters(), lr=0.02)
    for seed in range(4):
        take_step(straight, first, seed)
    second = Muon(interrupted.parameters(), lr=0.02)
    for seed in range(2):
        take_step(interrupted, second, seed)
    state = copy.deepcopy(second.state_dict())
    third = Muon(interrupted.parameters(), lr=0.5)
    third.load_state_dict(state)
    for seed in range(2, 4):
        take_step(interrupted, third, seed)
    for a, b in zip(straight.parameters(), interrupted.parameters(), strict=True):
        assert torch.equal(a, b)
    for group in third.param_groups:
        group["lr"] = 0.0
        group["weight_decay"] = 0.0
    before = [p.detach().clone() for p in interrupted.parameters()]
    take_step(interrupted, third)
    assert all(torch.equal(a, b) for a, b in zip(before, interrupted.parameters(), strict=True))


@pytest.mark.parametrize("options", [{"lr": 0.0}, {"momentum": 1.0}, {"weight_decay": -1.0}, {"beta2": 1.5}])
def test_numbers_out_of_range_are_refused(options):
    with pytest.raises(RequestError) as caught:
        Muon([nn.Parameter(torch.zeros(2, 2))], **options)
    assert caught.value.key == next(iter(options))


def names_by_decay(model):
    names = {id(p): name for name, p in model.named_parameters()}
    groups = group_parameters(model)
    return [sorted(names[id(p)] for p in group["params"]) for group in groups], groups


def test_only_weights_decay():
    model = nn.ModuleDict(
        {
            "linear": nn.Linear(2, 2),
            "norm": nn.LayerNorm([2, 2]),
            "batch": nn.BatchNorm1d(2),
            "embedding": nn.Embedding(3, 2),
            "prelu": nn.PReLU(),
            "rnn": nn.LSTM(2, 2),
        }
    )
    (decayed, others), groups = names_by_decay(model)
    assert decayed == ["linear.weight", "rnn.weight_hh_l0", "rnn.weight_ih_l0"]
    assert set(decayed) | set(others) == {name for name, _ in model.named_parameters()}
    assert "weight_decay" not in groups[0]
    assert groups[1]["weight_decay"] == 0.0


def test_scales_of_residuals_and_of_weight_norm_do_not_decay():
    for residual in (ReZeroResidual, LayerScaleResidual):
        model = MLP(4, 2, Parts(residual=residual), depth=3, width=4)
        (_, others), _ = names_by_decay(model)
        assert any("residual" in name for name in others)
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(3, 4)))
    (decayed, others), _ = names_by_decay(model)
    assert decayed == ["0.parametrizations.weight.original1"]
    assert others == ["0.bias", "0.parametrizations.weight.original0"]


def test_frozen_parameters_and_empty_groups_are_left_out():
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    assert [g["params"] for g in group_parameters(model)] == [[model.weight]]
    assert group_parameters(nn.Identity()) == []
