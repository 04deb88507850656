import math

import pytest
import torch
from torch import nn

from stabletrain.errors import RequestError
from stabletrain.network import second_moment_gain
from stabletrain.network.meanfield import second_moment

# relu, leaky and identity are exact; the others were computed with an independent quadrature.
GAINS = {
    nn.Identity(): 1.0,
    nn.ReLU(): 1.414,
    nn.LeakyReLU(0.2): math.sqrt(2 / 1.04),
    nn.PReLU(init=0.25): math.sqrt(2 / 1.0625),
    nn.GELU(): 1.534,
    nn.SiLU(): 1.677,
    nn.Tanh(): 1.593,
    nn.ELU(): 1.245,
    nn.Mish(): 1.487,
    nn.SELU(): 1.0,
}


@pytest.mark.parametrize(("activation", "gain"), GAINS.items(), ids=lambda value: str(value))
def test_gains(activation, gain):
    assert second_moment_gain(activation) == pytest.approx(gain, abs=6e-4)


@pytest.mark.parametrize("activation", [torch.sigmoid, torch.tanh, nn.functional.softplus])
def test_second_moment_agrees_with_a_plain_sum(activation):
    z = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    density = torch.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    for variance in (0.01, 1.0, 4.0):
        expected = torch.trapezoid(activation(z * variance**0.5) ** 2 * density, z)
        assert second_moment(activation, variance) == pytest.approx(float(expected), rel=1e-6)


def test_leaves_the_activation_as_it_is():
    activation = nn.PReLU()
    second_moment_gain(activation)
    assert activation.weight.dtype == torch.float32
    assert activation.training


@pytest.mark.parametrize("activation", [nn.ReLU, torch.sum, lambda x: x * 0])
def test_refuses_what_has_no_gain(activation):
    with pytest.raises((RequestError, TypeError)):
        second_moment_gain(activation)
