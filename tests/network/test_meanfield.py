import math

import pytest
import torch
from torch import nn

from stabletrain.errors import RequestError
from stabletrain.network import second_moment_gain
from stabletrain.network.meanfield.edge_of_chaos import find_critical
from stabletrain.network.meanfield.gaussian_signal import compute_moments, find_fixed_point, second_moment

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


def erf(x):
    return torch.erf(x)


# σ_w² and σ_b²: tanh, ReLU and leaky ReLU exactly; erf Poole et al. 2016; GELU and SiLU Roberts et al. 2022,
# section 5.3.4; Mish from an independent quadrature; SELU from its two slopes at 0, λ and λ α.
LAMBDA, ALPHA = 1.0507009873554805, 1.6732632423543772
CRITICAL = [
    (nn.Identity(), 1.0, 0.0),
    (nn.Tanh(), 1.0, 0.0),
    (erf, math.pi / 4, 0.0),
    (nn.ReLU(), 2.0, 0.0),
    (nn.LeakyReLU(0.2), 2 / 1.04, 0.0),
    (nn.PReLU(init=0.25), 2 / 1.0625, 0.0),
    (nn.ELU(), 1.0, 0.0),
    (nn.SELU(), 2 / (LAMBDA**2 * (1 + ALPHA**2)), 0.0),
    (nn.GELU(), 1.983058, 0.172922),
    (nn.SiLU(), 1.988005, 0.555143),
    (nn.Mish(), 2.013524, 0.094522),
    (nn.Hardtanh(), 1.0, 0.0),
    (nn.Softsign(), 1.0, 0.0),
]


@pytest.mark.parametrize(
    ("activation", "weights", "biases"), CRITICAL, ids=lambda value: getattr(value, "__name__", str(value))
)
def test_critical_points(activation, weights, biases):
    found = find_critical(activation)
    assert found.weight_variance == pytest.approx(weights, abs=1e-6)
    assert found.bias_variance == pytest.approx(biases, abs=1e-6)
    assert found.depth_scale == math.inf
    if found.variance is None:  # every q is a fixed point
        assert found.weight_variance * second_moment(activation, 7.0) == pytest.approx(7.0)
    elif found.variance:
        moments = compute_moments(activation, found.variance)
        assert found.weight_variance * moments.square + found.bias_variance == pytest.approx(found.variance)
        assert found.weight_variance * moments.slope == pytest.approx(1.0)
        assert found.weight_variance * moments.growth == pytest.approx(1.0)
    else:  # q decreases to 0, and χ₁ is 1 there
        assert found.weight_variance * second_moment(activation, 1e-3) < 1e-3 * (1 + 1e-9)
        assert found.weight_variance * compute_moments(activation, 1e-14).slope == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize(
    ("activation", "bias_variance", "weights"), [(nn.Tanh(), 0.05, 1.76), (nn.Tanh(), 0.0, 1.0), (nn.ReLU(), 0.0, 2.0)]
)
def test_critical_points_with_a_bias(activation, bias_variance, weights):
    found = find_critical(activation, bias_variance**0.5)
    assert found.weight_variance == pytest.approx(weights, abs=0.005)
    assert found.bias_variance == pytest.approx(bias_variance)
    if bias_variance:
        again = find_fixed_point(activation, found.weight_variance, found.bias_variance)
        assert again.variance == pytest.approx(found.variance, rel=1e-4)
        assert again.chi == pytest.approx(1.0, abs=1e-4)


def test_what_has_no_critical_point():
    for activation, closest in ((torch.sigmoid, "tanh"), (nn.Softplus(), "relu"), (nn.Sigmoid(), "tanh")):
        for bias_std in (None, 0.0, 0.5):
            with pytest.raises(RequestError, match="no edge of chaos") as caught:
                find_critical(activation, bias_std)
            assert caught.value.closest == closest
    for activation, bias_std in ((nn.ReLU(), 0.1), (nn.GELU(), 0.0)):
        with pytest.raises(RequestError, match="biases of that size") as caught:
            find_critical(activation, bias_std)
        assert caught.value.key == "bias_std"
    with pytest.raises(RequestError, match="no gradient"):
        find_critical(torch.zeros_like)
    assert find_critical(nn.GELU(), 0.5).variance > find_critical(nn.GELU()).variance


def test_moments_agree_with_a_plain_sum():
    z = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    density = torch.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    for q in (0.1, 1.0, 5.0):
        found = compute_moments(torch.tanh, q)
        slope = 1 - torch.tanh(z * q**0.5) ** 2
        assert found.slope == pytest.approx(float(torch.trapezoid(slope**2 * density, z)), rel=2e-5)
        more, less = second_moment(torch.tanh, q + 1e-4), second_moment(torch.tanh, q - 1e-4)
        assert found.growth == pytest.approx((more - less) / 2e-4, rel=1e-4)


def test_depth_scale_is_seen_in_a_deep_network():
    ordered, chaotic = find_fixed_point(torch.tanh, 0.5, 0.01), find_fixed_point(torch.tanh, 4.0, 0.01)
    assert ordered.chi < 1 < chaotic.chi
    assert ordered.depth_scale == pytest.approx(-1 / math.log(ordered.chi))
    assert find_fixed_point(torch.relu, 2.0, 0.0).depth_scale == math.inf
    assert find_fixed_point(torch.relu, 3.0, 0.0).variance == math.inf
    width, depth = 1000, 12
    for theory, std in ((ordered, 0.5**0.5), (chaotic, 2.0)):
        x = start = (torch.randn(1, width) * theory.variance**0.5).requires_grad_()
        for _ in range(depth):
            x = torch.tanh(x) @ (torch.randn(width, width) * std / width**0.5) + 0.1 * torch.randn(width)
        (gradient,) = torch.autograd.grad((x * torch.randn(1, width)).sum(), start)
        assert float(gradient.square().mean()) == pytest.approx(theory.chi**depth, rel=0.4)
        assert float(x.detach().square().mean()) == pytest.approx(theory.variance, rel=0.2)
