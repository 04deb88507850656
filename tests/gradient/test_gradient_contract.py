"""What every clip must do. A name without its YAML, or a YAML without its row here, fails."""

import importlib
import inspect
from pathlib import Path

import pytest
import torch
import yaml

from stabletrain.errors import RequestError
from stabletrain.gradient import Clip, clip, clip_gradients_
from stabletrain.gradient.clip import CLIPS

CONF = Path(__file__).parents[2] / "conf" / "clip"
ROWS = {"none": "NoClip", "norm": "NormClip", "value": "ValueClip", "layer": "LayerClip"}
INF, NAN = float("inf"), float("nan")


def make(name):
    values = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    module, attribute = values.pop("_target_").rsplit(".", 1)
    return getattr(importlib.import_module(module), attribute)(**values)


def make_parameters(*gradients):
    parameters = []
    for gradient in gradients:
        parameter = torch.nn.Parameter(torch.zeros_like(gradient))
        parameter.grad = gradient.clone()
        parameters.append(parameter)
    return parameters


def test_options_have_rows_and_classes_have_yamls():
    assert {path.stem for path in CONF.glob("*.yaml")} == set(ROWS)
    assert {name: kind.__name__ for name, kind in CLIPS.items()} == ROWS
    classes = [c for _, c in inspect.getmembers(clip, inspect.isclass) if issubclass(c, Clip)]
    assert {c.__name__ for c in classes if not inspect.isabstract(c)} == set(ROWS.values())


@pytest.mark.parametrize("name", ROWS)
def test_yaml_gives_every_number_of_the_class(name):
    values = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    assert values.pop("_target_").rsplit(".", 1)[1] == ROWS[name]
    parameters = inspect.signature(CLIPS[name]).parameters
    assert values == {key: parameter.default for key, parameter in parameters.items()}


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_keeps_dtype_and_identity_and_returns_the_norm_before(name, dtype):
    parameters = make_parameters(torch.full((4,), 3.0, dtype=dtype), torch.tensor(8.0, dtype=dtype))
    before = [p.grad for p in parameters]
    norm = make(name)(parameters)
    assert float(norm) == pytest.approx(10.0)
    for parameter, gradient in zip(parameters, before, strict=True):
        assert parameter.grad is gradient
        assert parameter.grad.dtype == dtype
        assert parameter.grad.isfinite().all()
        assert parameter.grad.gt(0).all()


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("value", [3e38, -3e38, 1e30, 1e-30, 1e-44])
def test_finite_gradients_never_become_zero_or_nan(name, value):
    parameters = make_parameters(torch.full((1000,), value), torch.full((1,), value))
    norm = make(name)(parameters)
    assert float(norm) == pytest.approx(abs(float(parameters[0].data.add(value)[0])) * 1001**0.5, rel=1e-5)
    for parameter in parameters:
        assert parameter.grad.isfinite().all()
        assert parameter.grad.ne(0).all()
        assert parameter.grad.sign().eq(1 if value > 0 else -1).all()


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("bad", [INF, -INF, NAN])
def test_non_finite_gradients_are_left_and_do_not_spread(name, bad):
    gradients = [torch.tensor([5.0, 7.0]), torch.tensor([1.0, bad]), torch.full((3,), 3e38)]
    parameters = make_parameters(*gradients)
    norm = make(name)(parameters)
    assert not norm.isfinite()
    for parameter, gradient in zip(parameters, gradients, strict=True):
        assert torch.equal(parameter.grad.nan_to_num(123.0), gradient.nan_to_num(123.0))


@pytest.mark.parametrize("name", ROWS)
def test_zero_none_empty_and_scalar(name):
    chosen = make(name)
    assert chosen([]).item() == 0
    without = torch.nn.Parameter(torch.ones(2))
    zero, empty, scalar = make_parameters(torch.zeros(3), torch.empty(0, 2), torch.tensor(0.5))
    assert chosen(p for p in [without, zero, empty, scalar]).item() == 0.5
    assert without.grad is None
    assert zero.grad.eq(0).all()
    assert scalar.grad.item() == 0.5
    assert chosen([zero]).item() == 0


@pytest.mark.parametrize("name", ROWS)
def test_state_round_trips(name):
    chosen = make(name)
    assert chosen.state_dict() == {}
    chosen.load_state_dict(chosen.state_dict())
    with pytest.raises(RequestError):
        chosen.load_state_dict({"mean": 1.0})


@pytest.mark.parametrize("name", ROWS)
def test_by_name_and_as_instance_are_the_same(name):
    gradients = [torch.randn(4) * 10, torch.randn(2, 3)]
    first, second = make_parameters(*gradients), make_parameters(*gradients)
    assert torch.equal(clip_gradients_(first, name), clip_gradients_(second, make(name)))
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(first, second, strict=True))
