import functools

import pytest
import torch
from torch import nn

from stabletrain.errors import RequestError
from stabletrain.network import MLP, Parts
from stabletrain.network.normalization import LayerNorm
from stabletrain.network.residual import AddResidual, ReZeroResidual, ScaledResidual


def test_agrees_with_plain_operations():
    parts = Parts(nn.ReLU, LayerNorm, functools.partial(ScaledResidual, factor=0.3))
    model = MLP(3, 2, parts, depth=3, width=4).double()
    x = torch.randn(7, 3, dtype=torch.float64)

    h = x
    for number, layer in enumerate(model.layers):
        z = h @ layer.linear.weight.T + layer.linear.bias
        z = (z - z.mean(1, keepdim=True)) / (z.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
        z = z * layer.norm.weight + layer.norm.bias
        h = h + 0.3 * z.clamp(min=0) if number else z.clamp(min=0)
    expected = h @ model.head.weight.T + model.head.bias
    torch.testing.assert_close(model(x), expected, rtol=1e-12, atol=1e-12)


def test_takes_images_as_vectors():
    model = MLP(64, 10)
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(model(x), model(x.view(2, 64)))


def test_dropout_is_off_when_predicting_and_spares_the_skip():
    model = MLP(4, 4, Parts(residual=AddResidual), depth=3, width=4, dropout=0.9)
    x = torch.randn(5, 4)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))
    layer = model.layers[1].train()
    layer.dropout.p = 1.0
    assert torch.equal(layer(x), x)


def test_rezero_of_500_layers_starts_as_the_identity():
    model = MLP(4, 4, Parts(residual=ReZeroResidual), depth=501, width=4)
    x = torch.randn(2, 4)
    assert torch.equal(model(x), model.head(model.layers[0](x)))


def test_depth_one_and_width_one():
    assert MLP(1, 1, depth=1, width=1)(torch.randn(1, 1)).shape == (1, 1)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("depth", 0),
        ("depth", 2.0),
        ("depth", True),
        ("width", 0),
        ("width", "64"),
        ("dropout", 1.0),
        ("dropout", -0.1),
        ("dropout", float("nan")),
    ],
)
def test_refuses_what_is_out_of_range(key, value):
    with pytest.raises(RequestError) as caught:
        MLP(4, 2, **{key: value})
    assert caught.value.key == key
