"""The one-dimensional DenseNet, rewritten with functional calls."""

import functools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from stabletrain.errors import RequestError
from stabletrain.network import DenseNet1d, Parts
from stabletrain.network.models.densenet import DenseLayer, Transition
from stabletrain.network.normalization import BatchNorm, GroupNorm, LayerNorm
from stabletrain.network.residual import AddResidual, DenseResidual, NoResidual

PARTS = Parts(nn.ReLU, BatchNorm, DenseResidual)
EXACT = {"rtol": 1e-11, "atol": 1e-11}


def batch(x, norm):
    mean, variance = x.mean((0, 2), keepdim=True), x.var((0, 2), correction=0, keepdim=True)
    return (x - mean) / (variance + 1e-5).sqrt() * norm.weight.view(1, -1, 1) + norm.bias.view(1, -1, 1)


def convolve(x, layer):
    return F.conv1d(x, layer.weight, layer.bias, padding=layer.weight.size(2) // 2)


def test_agrees_with_functional_calls():
    model = DenseNet1d(3, 2, PARTS, depth=5, width=4, num_blocks=2, kernel_size=5).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    x = torch.randn(4, 11, 3, dtype=torch.float64)
    h = convolve(x.mT, model.stem)
    for stage in model.stages:
        y = convolve(batch(h, stage.norm).clamp(min=0), stage.conv)
        if isinstance(stage, DenseLayer):
            h = torch.cat([h, y], dim=1)
        else:
            h = (y[:, :, 0:10:2] + y[:, :, 1:10:2]) / 2
    h = batch(h, model.norm).clamp(min=0).mean(2)
    expected = h @ model.head.weight.T + model.head.bias
    torch.testing.assert_close(model(x), expected, **EXACT)
    pairs = [torch.autograd.grad(y.square().sum(), list(model.parameters())) for y in (model(x), expected)]
    for found, wanted in zip(*pairs, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(
    ("depth", "width", "num_blocks", "reduction", "expected"),
    [
        # Input channels of every stage: the stem has 2k, a layer adds k, a transition keeps a fraction.
        (4, 12, 2, 0.5, [24, 36, "48 24", 24, 36, "48"]),
        (5, 4, 2, 0.5, [8, 12, 16, "20 10", 10, 14, "18"]),
        (3, 10, 3, 1.0, [20, "30 30", 30, "40 40", 40, "50"]),
        (2, 3, 1, 0.5, [6, 9, "12"]),
        (1, 1, 3, 0.01, [2, "3"]),
        (3, 1, 3, 0.01, [2, "3 1", 1, "2 1", 1, "2"]),
    ],
)
def test_channels(depth, width, num_blocks, reduction, expected):
    model = DenseNet1d(3, 2, PARTS, depth=depth, width=width, num_blocks=num_blocks, reduction=reduction)
    found = []
    for stage in model.stages:
        into, out = stage.conv.in_channels, stage.conv.out_channels
        found.append(f"{into} {out}" if isinstance(stage, Transition) else into)
        assert stage.norm.num_features == into
    assert [*found, str(model.head.in_features)] == expected
    assert sum(isinstance(stage, DenseLayer) for stage in model.stages) == depth


def test_every_layer_reads_all_before_it():
    model = DenseNet1d(3, 2, PARTS, depth=3, width=4, num_blocks=1).double()
    x = torch.randn(2, 6, 3, dtype=torch.float64)
    seen = []
    for stage in model.stages:
        stage.register_forward_hook(lambda _, args, out: seen.append((args[0], out)))
    model(x)
    for before, after in seen:
        assert torch.equal(after[:, : before.size(1)], before)


@pytest.mark.parametrize("num_steps", [1, 2, 3, 4, 40])
@pytest.mark.parametrize("depth", [1, 2, 7])
def test_short_sequences_reach_every_parameter(num_steps, depth):
    model = DenseNet1d(3, 2, Parts(nn.Tanh, LayerNorm, DenseResidual), depth=depth, width=4, kernel_size=5)
    model(torch.randn(2, num_steps, 3)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_dropout_acts_in_the_layers_and_not_when_predicting():
    model = DenseNet1d(3, 2, PARTS, depth=2, width=4, dropout=0.5)
    x = torch.randn(4, 8, 3)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (functools.partial(DenseNet1d, parts=Parts(residual=AddResidual)), "residual"),
        (functools.partial(DenseNet1d, parts=Parts(residual=NoResidual)), "residual"),
        (functools.partial(DenseNet1d, kernel_size=4), "kernel_size"),
        (functools.partial(DenseNet1d, kernel_size=0), "kernel_size"),
        (functools.partial(DenseNet1d, reduction=0.0), "reduction"),
        (functools.partial(DenseNet1d, reduction=1.1), "reduction"),
        (functools.partial(DenseNet1d, num_blocks=0), "num_blocks"),
        (functools.partial(DenseNet1d, num_blocks=2.0), "num_blocks"),
        (functools.partial(DenseNet1d, parts=Parts(norm=GroupNorm, residual=DenseResidual), width=5), "num_groups"),
    ],
)
def test_refusals(make, key):
    with pytest.raises(RequestError) as caught:
        make(3, 2)
    assert caught.value.key == key
