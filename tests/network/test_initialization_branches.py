"""Initializations of residual branches, and DeepNorm's gain, on our models."""

import functools
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from stabletrain.errors import RequestError
from stabletrain.network import MLP, Parts, initialize_
from stabletrain.network.initialization import DepthScaled
from stabletrain.network.models.transformer import Transformer
from stabletrain.network.normalization import LayerNorm
from stabletrain.network.residual import (
    AddResidual,
    DeepNormResidual,
    HighwayResidual,
    LayerScaleResidual,
    find_branches,
)


def make_mlp(activation=nn.Tanh, residual=None, **options):
    parts = Parts(activation=activation) if residual is None else Parts(activation=activation, residual=residual)
    return MLP(12, 5, parts, **{"depth": 6, "width": 32, **options})


def test_depth_scaled_divides_by_the_root_of_the_number_of_branches():
    model = make_mlp(residual=AddResidual, depth=10, width=128)  # nine branches: the first layer has none
    initialize_(model, "depth_scaled")
    for index, layer in enumerate(model.layers):
        expected = 12**-0.5 if index == 0 else 128**-0.5 / 3
        assert float(layer.linear.weight.detach().std()) == pytest.approx(expected, rel=0.1)
    transformer = Transformer(6, 3, depth=2, width=64)
    initialize_(transformer, DepthScaled(std=0.02))
    ends = [branch.weights[-1] for branch in find_branches(transformer)]
    assert len(ends) == 4
    for name, weight in transformer.named_parameters():
        if weight.dim() == 2:
            shrink = 2 if any(weight is end for end in ends) else 1
            assert float(weight.detach().std()) == pytest.approx(0.02 / shrink, rel=0.15), name


def test_depth_scaled_keeps_the_signal_at_any_depth():
    grown = {}
    for init in ("lecun", "depth_scaled"):
        model = make_mlp(nn.Identity, AddResidual, depth=50, width=256)
        initialize_(model, init)
        x = torch.randn(64, 256)
        y = x
        for layer in model.layers[1:]:
            y = layer(y).detach()
        grown[init] = float(y.square().mean() / x.square().mean())
    assert grown["depth_scaled"] == pytest.approx(math.e, rel=0.25)  # (1 + 1 / 49)^49
    assert grown["lecun"] > 2**40


def test_fixup_on_networks_of_ours():
    transformer = Transformer(6, 3, depth=2, width=64)
    initialize_(transformer, "fixup")
    branches = find_branches(transformer)
    for branch in branches:
        assert not branch.weights[-1].any()
        first = branch.weights[0].detach()
        assert float(first.std()) == pytest.approx(math.sqrt(2 / 64) * 4**-0.5, rel=0.1)
    assert not transformer.head.weight.any()
    model = make_mlp(nn.Tanh, functools.partial(LayerScaleResidual, initial=1.0))
    initialize_(model, "fixup", activation=nn.Tanh())
    x = torch.randn(4, 12)
    first = model.layers[0](x)
    assert torch.equal(model.layers[3](first), first)
    F.cross_entropy(model(x), torch.tensor([0, 1, 2, 3])).backward()
    assert model.head.weight.grad.any()
    assert all(p.isfinite().all() for p in model.parameters())


def test_fixup_refuses_what_would_never_learn():
    for activation in (nn.ReLU(), torch.relu):
        with pytest.raises(RequestError, match="never learn"):
            initialize_(make_mlp(nn.ReLU, AddResidual), "fixup", activation=activation)
    for activation in (nn.GELU(), nn.Tanh(), nn.PReLU(), None):
        initialize_(make_mlp(nn.GELU, AddResidual), "fixup", activation=activation)


@pytest.mark.parametrize("init", ["depth_scaled", "fixup"])
@pytest.mark.parametrize("residual", [None, HighwayResidual])
def test_no_additive_branches_no_scaling(init, residual):
    with pytest.raises(RequestError, match="nothing to scale") as caught:
        initialize_(make_mlp(residual=residual), init)
    assert caught.value.command == "residual=add"


@pytest.mark.parametrize("init", ["default", "xavier", "orthogonal", "depth_scaled", "lsuv"])
def test_deepnorm_shrinks_its_branches_after_every_initialization(init):
    def make(residual):
        torch.manual_seed(1)
        model = Transformer(6, 3, Parts(norm=LayerNorm, residual=residual), depth=3, width=16, placement="post")
        torch.manual_seed(2)
        return initialize_(model, init, inputs=torch.randn(8, 5, 6))

    plain, deep = make(AddResidual), make(DeepNormResidual)
    beta = (8 * 3) ** -0.25
    shrunk = [w for branch in find_branches(deep) for w in branch.weights]
    assert len(shrunk) == 12
    for (name, before), after in zip(plain.named_parameters(), deep.parameters(), strict=True):
        if init == "lsuv" and "layers.0" not in name:
            continue  # after the first join the layers have other inputs
        expected = before * beta if any(after is w for w in shrunk) else before
        if init != "lsuv" or after.dim() > 1:
            torch.testing.assert_close(after, expected, msg=name)
