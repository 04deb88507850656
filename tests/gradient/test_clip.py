import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stabletrain.errors import RequestError
from stabletrain.gradient import LayerClip, NormClip, ValueClip, clip_gradients_

INF = float("inf")
ELEMENTS = st.floats(-(2.0**127), 2.0**127, width=32, allow_subnormal=False)
TENSORS = st.lists(st.lists(ELEMENTS, min_size=1, max_size=6), min_size=1, max_size=4)
LIMITS = st.floats(1e-3, 1e3)


def make_parameters(values, dtype=torch.float32):
    parameters = []
    for row in values:
        parameter = torch.nn.Parameter(torch.zeros(torch.tensor(row).shape, dtype=dtype))
        parameter.grad = torch.tensor(row, dtype=dtype)
        parameters.append(parameter)
    return parameters


def flatten(parameters):
    return torch.cat([p.grad.double().flatten() for p in parameters])


def check_direction(before, after):
    """After is before times one factor from 0 to 1, but for elements that float32 cannot hold."""
    factor = after.abs().max() / before.abs().max() if before.any() else 1.0
    assert 0 < factor <= 1 + 1e-6
    torch.testing.assert_close(after, before * factor, rtol=1e-5, atol=1e-37)


@given(TENSORS, LIMITS)
def test_norm_clip_limits_the_norm_and_keeps_the_direction(values, limit):
    parameters = make_parameters(values)
    before = flatten(parameters)
    norm = NormClip(limit)(parameters)
    after = flatten(parameters)
    assert float(norm) == pytest.approx(float(before.norm()), rel=1e-5, abs=1e-37)
    assert after.norm() <= limit * (1 + 1e-5)
    check_direction(before, after)
    if before.norm() < limit * (1 - 1e-4) - 1e-6:
        assert torch.equal(after, before)


@given(TENSORS, LIMITS)
def test_layer_clip_limits_each_norm_and_keeps_each_direction(values, limit):
    parameters = make_parameters(values)
    before = [p.grad.double() for p in parameters]
    LayerClip(limit)(parameters)
    for gradient, parameter in zip(before, parameters, strict=True):
        assert parameter.grad.double().norm() <= limit * (1 + 1e-5)
        check_direction(gradient, parameter.grad.double())


@given(TENSORS, LIMITS)
def test_value_clip_limits_each_element(values, limit):
    parameters = make_parameters(values)
    before = flatten(parameters)
    ValueClip(limit)(parameters)
    torch.testing.assert_close(flatten(parameters), before.clamp(-limit, limit), rtol=1e-6, atol=0)


@pytest.mark.parametrize("norm_type", [1.0, 2.0, 3.0, INF])
def test_norm_clip_agrees_with_torch(norm_type):
    values = [[3.0, -4.0, 1.0], [12.0, 0.5]]
    ours, theirs = make_parameters(values), make_parameters(values)
    norm = NormClip(2.0, norm_type)(ours)
    expected = torch.nn.utils.clip_grad_norm_(theirs, 2.0, norm_type)
    assert torch.equal(norm, expected)
    assert torch.equal(flatten(ours), flatten(theirs))


def test_layer_clip_agrees_with_its_formula():
    parameters = make_parameters([[3.0, 4.0], [0.3, 0.4]])
    assert float(LayerClip(1.0)(parameters)) == pytest.approx(math.sqrt(25.25))
    torch.testing.assert_close(parameters[0].grad, torch.tensor([0.6, 0.8]))
    assert torch.equal(parameters[1].grad, torch.tensor([0.3, 0.4]))


def test_overflowing_gradients_reach_the_limit():
    parameters = make_parameters([[3e38] * 5000, [-3e38]])
    norm = clip_gradients_(parameters, "norm", max_norm=1.0)
    assert float(norm) == pytest.approx(3e38 * math.sqrt(5001), rel=1e-6)
    assert float(flatten(parameters).norm()) == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_reaches_the_limit(dtype):
    parameters = make_parameters([[6e4] * 100, [-6e4]], dtype)
    norm = NormClip(1.0)(parameters)
    assert float(norm) == pytest.approx(6e4 * math.sqrt(101), rel=1e-2)
    assert float(flatten(parameters).norm()) == pytest.approx(1.0, rel=1e-2)
    ValueClip(1e30)(parameters)


def test_takes_a_single_parameter_and_defaults_to_norm():
    (parameter,) = make_parameters([[3.0, 4.0]])
    assert clip_gradients_(parameter).item() == 5
    torch.testing.assert_close(parameter.grad, torch.tensor([0.6, 0.8]))


@pytest.mark.parametrize(
    ("arguments", "options", "key", "closest"),
    [
        (("nrom",), {}, "clip", "norm"),
        (("norm",), {"max_nrom": 1.0}, "max_nrom", "max_norm"),
        (("none",), {"max_norm": 1.0}, "max_norm", None),
        ((NormClip(),), {"max_norm": 1.0}, "max_norm", None),
        (("norm",), {"max_norm": 0.0}, "max_norm", None),
        (("norm",), {"norm_type": 0.0}, "norm_type", None),
        (("value",), {"max_value": -1.0}, "max_value", None),
        (("layer",), {"max_norm": INF}, "max_norm", None),
    ],
)
def test_refuses_what_it_does_not_know(arguments, options, key, closest):
    with pytest.raises(RequestError) as caught:
        clip_gradients_([], *arguments, **options)
    assert caught.value.key == key
    assert caught.value.closest == closest


def test_a_module_in_place_of_its_parameters_is_named():
    with pytest.raises(RequestError) as caught:
        clip_gradients_(torch.nn.Linear(2, 1), "norm")
    assert (caught.value.key, caught.value.found) == ("parameters", "Linear")
    assert caught.value.closest == "model.parameters()"
