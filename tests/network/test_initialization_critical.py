"""Initialization at the edge of chaos: the weights, the variance of the signals, and a deep network that trains."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from stabletrain.errors import RequestError
from stabletrain.network import MLP, Parts, initialize_
from stabletrain.network.initialization import Critical


def make_mlp(activation=nn.Tanh, residual=None, **options):
    parts = Parts(activation=activation) if residual is None else Parts(activation=activation, residual=residual)
    return MLP(12, 5, parts, **{"depth": 6, "width": 32, **options})


@pytest.mark.parametrize(("activation", "std"), [(nn.Tanh, 1.0), (nn.ReLU, math.sqrt(2)), (nn.ELU, 1.0)])
def test_critical_weights_are_orthogonal_times_sigma(activation, std):
    model = initialize_(make_mlp(activation), "critical", activation=activation())
    for layer in model.layers[1:]:
        singular = torch.linalg.svdvals(layer.linear.weight.detach())
        torch.testing.assert_close(singular, torch.full((32,), std), rtol=1e-5, atol=0)
    first = model.layers[0].linear.weight.detach()  # wider than its inputs: the rows keep their norm
    torch.testing.assert_close(first.square().sum(), torch.tensor(32 * std**2))
    rows = model.head.weight.detach()
    torch.testing.assert_close(rows @ rows.T, std**2 * torch.eye(5))
    assert not any(b.any() for n, b in model.named_parameters() if "bias" in n)


@pytest.mark.parametrize(
    ("activation", "variance", "biases"),
    [(nn.GELU, 3.5616, 0.1729), (nn.SiLU, 14.320, 0.5551), (nn.Mish, 1.6702, 0.0945)],
)
def test_critical_starts_at_the_fixed_point_and_ends_at_one(activation, variance, biases):
    model = MLP(12, 1000, Parts(activation=activation), width=1000, depth=4)
    initialize_(model, "critical")
    x = torch.randn(256, 12)
    measured = [float((model.layers[0].linear(x)).detach().square().mean())]
    for layer in model.layers[:-1]:
        x = layer(x)
        measured.append(float(model.layers[len(measured)].linear(x).detach().square().mean()))
    assert measured == pytest.approx([variance] * 4, rel=0.15)
    assert float(model.head(model.layers[-1](x)).detach().square().mean()) == pytest.approx(1, rel=0.3)
    for layer in model.layers:
        assert float(layer.linear.bias.detach().square().mean()) == pytest.approx(biases, rel=0.3)
    assert not model.head.bias.any()


def test_critical_takes_a_bias():
    model = initialize_(make_mlp(width=512), "critical", bias_std=0.05**0.5)
    assert float(model.layers[2].linear.bias.detach().square().mean()) == pytest.approx(0.05, rel=0.4)
    weight = model.layers[2].linear.weight.detach()
    torch.testing.assert_close(weight @ weight.T, 1.760955 * torch.eye(512), atol=1e-4, rtol=1e-4)
    with pytest.raises(RequestError, match="out of range"):
        Critical(bias_std=-0.1)
    for activation in (nn.Sigmoid, nn.Softplus):
        with pytest.raises(RequestError, match="no edge of chaos"):
            initialize_(make_mlp(activation), "critical")


def test_critical_keeps_recurrent_steps_and_gates_at_one():
    plain = initialize_(nn.RNN(8, 16, nonlinearity="relu"), "critical")
    torch.testing.assert_close(plain.weight_hh_l0 @ plain.weight_hh_l0.T, torch.eye(16))
    assert float(plain.weight_ih_l0.detach().square().sum()) == pytest.approx(2 * 16)
    gated = initialize_(nn.LSTM(16, 16), "critical", activation=nn.ReLU())
    for gate in (*gated.weight_hh_l0.chunk(4), *gated.weight_ih_l0.chunk(4)):
        torch.testing.assert_close(gate @ gate.T, torch.eye(16))
    assert gated.bias_ih_l0.detach().tolist() == [0.0] * 16 + [1.0] * 16 + [0.0] * 32


def test_critical_kernels_are_delta_where_they_move_by_one():
    model = nn.Sequential(nn.Conv2d(8, 8, 3), nn.Tanh(), nn.Conv2d(8, 8, 3, stride=2))
    initialize_(model, "critical")
    torch.testing.assert_close(model[0].weight.flatten(2).norm(dim=(0, 1))[4], torch.tensor(8**0.5))
    assert model[0].weight.count_nonzero() == 64
    flat = model[2].weight.detach().flatten(1)
    torch.testing.assert_close(flat @ flat.T, torch.eye(8))


@pytest.mark.parametrize(("init", "learns"), [("critical", True), ("he", False)])
def test_critical_trains_two_hundred_layers(init, learns):
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(pixels, dtype=torch.float32) / 16, torch.tensor(labels)
    model = MLP(64, 10, depth=200, width=64)
    initialize_(model, init, activation=nn.Tanh())
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)  # at 1e-3 the combined update of 200 layers is too large
    for _ in range(60):
        batch = torch.randint(1400, (128,))
        optimizer.zero_grad()
        F.cross_entropy(model(x[batch]), y[batch]).backward()
        optimizer.step()
    with torch.no_grad():
        accuracy = float((model(x[1400:]).argmax(1) == y[1400:]).float().mean())
    assert (accuracy > 0.85) == learns
