"""Every join against its equation, in float64, values and gradients."""

import functools

import pytest
import torch
from torch import nn

from stabletrain.errors import RequestError
from stabletrain.network import CNN, GRU, LSTM, MLP, RNN, Parts, ResNet, Transformer
from stabletrain.network.residual import (
    AddResidual,
    DeepNormResidual,
    DenseResidual,
    HighwayResidual,
    LayerScaleResidual,
    NoResidual,
    Residual,
    ReZeroResidual,
    ScaledResidual,
    build_residual,
    find_branches,
    fit_residuals_,
)

WIDTH = 6
EXACT = {"rtol": 1e-12, "atol": 1e-12}
RESIDUALS = {
    "none": NoResidual,
    "add": AddResidual,
    "scaled": ScaledResidual,
    "rezero": ReZeroResidual,
    "layerscale": LayerScaleResidual,
    "deepnorm": functools.partial(DeepNormResidual, alpha=1.7),
    "highway": HighwayResidual,
    "dense": DenseResidual,
}
PLACES = [(-1, (4, WIDTH)), (-1, (4, 3, WIDTH)), (1, (4, WIDTH, 5)), (1, (2, WIDTH, 3, 4)), (1, (2, WIDTH))]


def along(vector, like, axis):
    """Return the vector, reshaped to multiply `like` along the axis."""
    shape = [1] * like.dim()
    shape[axis] = -1
    return vector.reshape(shape)


def reference(name, join, x, f, axis):
    if name == "highway":
        gate = torch.empty_like(x)
        for unit in range(WIDTH):  # unit by unit, as a sum over the others
            total = join.gate.bias[unit] + join.bias
            for other in range(WIDTH):
                total = total + join.gate.weight[unit, other] * x.select(axis, other)
            gate.select(axis, unit).copy_(1 / (1 + (-total).exp()))
        return gate * f + (1 - gate) * x
    return {
        "none": lambda: f,
        "add": lambda: x + f,
        "scaled": lambda: x + 0.1 * f,
        "rezero": lambda: x + join.alpha * f,
        "layerscale": lambda: x + along(join.scale, x, axis) * f,
        "deepnorm": lambda: 1.7 * x + f,
        "dense": lambda: torch.cat([x, f], axis),
    }[name]()


@pytest.mark.parametrize("name", RESIDUALS)
@pytest.mark.parametrize(("axis", "shape"), PLACES)
def test_values_and_gradients_agree_with_the_equation(name, axis, shape):
    join = build_residual(RESIDUALS[name], WIDTH, axis=axis, may_grow=True, norm_follows=True).double()
    for parameter in join.parameters():
        nn.init.normal_(parameter)
    x, f = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for _ in range(2))
    found, expected = join(x, f), reference(name, join, x, f, axis)
    torch.testing.assert_close(found, expected, **EXACT)
    assert found.size(axis) == join.join_width(WIDTH) == (2 * WIDTH if name == "dense" else WIDTH)
    weights = torch.randn(found.shape, dtype=torch.float64)
    inputs = [x, f, *join.parameters()]
    pairs = [torch.autograd.grad((y * weights).sum(), inputs, materialize_grads=True) for y in (found, expected)]
    for a, b in zip(*pairs, strict=True):
        torch.testing.assert_close(a, b, **EXACT)


@pytest.mark.parametrize("name", RESIDUALS)
def test_half_precision_and_one_element(name):
    join = build_residual(RESIDUALS[name], 1, may_grow=True, norm_follows=True).bfloat16()
    x = torch.ones(1, 1, dtype=torch.bfloat16)
    assert join(x, x).dtype == torch.bfloat16


def test_how_each_starts():
    x, f = torch.randn(2, 4, WIDTH)
    assert torch.equal(ReZeroResidual(WIDTH)(x, f), x)
    torch.testing.assert_close(LayerScaleResidual(WIDTH)(x, f), x, rtol=0, atol=1e-4)
    assert torch.equal(LayerScaleResidual(WIDTH, initial=1.0)(x, f), x + f)
    highway = HighwayResidual(WIDTH)
    nn.init.zeros_(highway.gate.weight)
    assert 1 - torch.sigmoid(torch.tensor(-2.0)) == pytest.approx(0.88, abs=0.001)
    torch.testing.assert_close(highway(x, f), 0.8808 * x + 0.1192 * f, rtol=0, atol=1e-3)


def test_a_gate_that_is_shut_and_one_that_is_open():
    x, f = torch.randn(2, 4, WIDTH)
    torch.testing.assert_close(HighwayResidual(WIDTH, bias=-60.0)(x, f), x)
    torch.testing.assert_close(HighwayResidual(WIDTH, bias=60.0)(x, f), f)


def test_rezero_learns_its_scale():
    join = ReZeroResidual(WIDTH)
    x, f = torch.randn(2, 4, WIDTH)
    join(x, f).sum().backward()
    torch.testing.assert_close(join.alpha.grad, f.sum())


@pytest.mark.parametrize("num_layers", [1, 6, 12, 100])
def test_deepnorm_takes_the_numbers_of_the_paper(num_layers):
    """Wang et al. 2022, table 1: encoder only, α = (2N)^(1/4), β = (8N)^(-1/4)."""
    parts = Parts(nn.ReLU, nn.LayerNorm, DeepNormResidual)
    model = Transformer(3, 2, parts, depth=num_layers, width=4, num_heads=2, placement="post")
    joins = [module for module in model.modules() if isinstance(module, DeepNormResidual)]
    assert len(joins) == 2 * num_layers
    for join in joins:
        assert join.alpha == pytest.approx((2 * num_layers) ** 0.25)
        assert join.branch_gain == pytest.approx((8 * num_layers) ** -0.25)


def test_deepnorm_keeps_a_given_alpha():
    network = nn.ModuleList([DeepNormResidual(4, alpha=3.0), DeepNormResidual(4)])
    fit_residuals_(network)
    assert network[0].alpha == 3.0
    assert network[1].alpha == pytest.approx(2**0.25)
    assert "alpha=3" in repr(network[0])


def test_branches_are_those_that_add():
    assert len(find_branches(MLP(4, 2, Parts(residual=AddResidual), depth=5))) == 4
    assert len(find_branches(CNN(4, 2, Parts(residual=ReZeroResidual), depth=5))) == 4
    assert len(find_branches(ResNet(4, 2, depth=5))) == 5
    assert len(find_branches(Transformer(4, 2, depth=5))) == 10
    for residual in (NoResidual, HighwayResidual, DenseResidual):
        assert find_branches(MLP(4, 2, Parts(residual=residual), depth=5)) == []
    (branch,) = find_branches(MLP(4, 2, Parts(residual=AddResidual), depth=2))
    assert isinstance(branch.residual, Residual)
    assert branch.weights[0].shape == (64, 64)


@pytest.mark.parametrize(
    ("residual", "options", "reason"),
    [
        (DenseResidual, {}, "widens"),
        (DeepNormResidual, {}, "norm after every join"),
        (DeepNormResidual, {"may_grow": True}, "norm after every join"),
    ],
)
def test_what_does_not_fit_is_refused(residual, options, reason):
    with pytest.raises(RequestError, match=reason) as caught:
        build_residual(residual, WIDTH, **options)
    assert caught.value.key == "residual"


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda: ScaledResidual(4, factor=-0.1), "factor"),
        (lambda: LayerScaleResidual(4, initial=0.0), "initial"),
        (lambda: DeepNormResidual(4, alpha=0.0), "alpha"),
    ],
)
def test_refuses_numbers_out_of_range(make, key):
    with pytest.raises(RequestError) as caught:
        make()
    assert caught.value.key == key


class Counted(AddResidual):
    """A user-defined additive join that records how many there are."""

    num_branches = None

    def set_num_branches(self, num_branches):
        self.num_branches = num_branches


@pytest.mark.parametrize(
    ("family", "depth", "expected"),
    [(MLP, 4, 3), (CNN, 4, 3), (ResNet, 4, 4), (Transformer, 4, 8), (RNN, 4, 3), (LSTM, 4, 3), (GRU, 4, 3)],
)
def test_every_family_tells_its_joins_how_many_they_are(family, depth, expected):
    model = family(3, 2, Parts(residual=Counted), depth=depth, width=8)
    assert [m.num_branches for m in model.modules() if isinstance(m, Counted)] == [expected] * expected
