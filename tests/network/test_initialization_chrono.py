"""Chrono initialization: the memory of the gates has the requested length."""

import math

import pytest
import torch
from torch import nn

from stabletrain.errors import RequestError
from stabletrain.network import LSTM, initialize_
from stabletrain.network.initialization import Chrono, Orthogonal


@pytest.mark.parametrize("kind", [nn.LSTM, nn.LSTMCell, nn.GRU, nn.GRUCell])
def test_chrono_biases(kind):
    width, steps = 1000, 200
    layer = kind(2, width) if "Cell" in kind.__name__ else kind(2, 4, 2, bidirectional=True)
    biases = dict(initialize_(layer, "chrono", max_steps=steps).named_parameters())
    inner = {n: b.detach() for n, b in biases.items() if n.startswith("bias_ih")}
    assert not any(b.any() for n, b in biases.items() if n.startswith("bias_hh"))
    for bias in inner.values():
        if "LSTM" in kind.__name__:
            i, f, g, o = bias.chunk(4)
            assert torch.equal(i, -f)
            assert not torch.cat([g, o]).any()
        else:
            r, f, n = bias.chunk(3)
            assert not torch.cat([r, n]).any()
        times = f.exp()
        assert 1 <= times.min() < times.max() <= steps - 1
        if len(f) == width:  # U(1, T − 1): mean T / 2, six standard errors
            assert float(times.mean()) == pytest.approx(steps / 2, abs=6 * (steps - 2) / math.sqrt(12 * width))
            assert float(times.std()) == pytest.approx((steps - 2) / math.sqrt(12), rel=0.05)


def test_chrono_keeps_a_state_as_long_as_it_says():
    """The cell forgets 1 / T of its state per step: in LSTM by f, in torch's GRU by 1 − z."""
    width, steps = 64, 50
    for kind in (nn.LSTMCell, nn.GRUCell):
        cell = initialize_(kind(1, width), "chrono", max_steps=steps)
        nn.init.zeros_(cell.weight_hh)
        nn.init.zeros_(cell.weight_ih)
        bias = cell.bias_ih.detach().view(-1, width)[1]
        state = torch.ones(1, width)
        after = cell(torch.zeros(1, 1), (state, state))[1] if kind is nn.LSTMCell else cell(torch.zeros(1, 1), state)
        torch.testing.assert_close(1 - after[0].detach(), 1 / (1 + bias.exp()), atol=1e-5, rtol=1e-4)


def test_chrono_weights_are_those_of_orthogonal():
    models = [LSTM(6, 3, width=16), LSTM(6, 3, width=16)]
    for model, init in zip(models, (Chrono(50), Orthogonal()), strict=True):
        torch.manual_seed(1)
        initialize_(model, init, activation=nn.Tanh())
    for (name, a), b in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
        assert torch.equal(a, b) == (not name.startswith("rnn.bias_ih")), name


def test_chrono_counts_the_steps_of_the_inputs():
    def longest(module, inputs):
        initialize_(module, "chrono", inputs=inputs)
        return max(float(b.detach().exp().max()) for n, b in module.named_parameters() if "bias_ih" in n)

    assert 8.5 < longest(LSTM(6, 3, width=500), torch.randn(4, 10, 6)) <= 9
    assert 8.5 < longest(nn.GRU(6, 500), (torch.randn(10, 4, 6),)) <= 9  # time first
    assert 8.5 < longest(nn.GRU(6, 500, batch_first=True), {"input": torch.randn(4, 10, 6)}) <= 9
    assert longest(nn.LSTM(6, 5), torch.randn(1, 4, 6)) == 1
    with pytest.raises(RequestError) as caught:
        initialize_(nn.LSTM(6, 5), "chrono")
    assert caught.value.key == "max_steps"
    for module in (nn.RNN(3, 4), nn.Linear(3, 4)):
        with pytest.raises(RequestError, match="no LSTM or GRU"):
            initialize_(module, "chrono", max_steps=9)
    with pytest.raises(RequestError, match="out of range"):
        Chrono(max_steps=1)
