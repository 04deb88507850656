"""What every clip must do. A name without its YAML, or a YAML without its row here, fails."""

import importlib
import inspect
from pathlib import Path

import pytest
import torch
import yaml

import stabletrain.gradient
from stabletrain.errors import RequestError
from stabletrain.gradient import CLIPS, Chain, Clip, clip_gradients_

CONF = Path(__file__).parents[2] / "conf" / "clip"
ROWS = {
    "none": "NoClip",
    "norm": "NormClip",
    "value": "ValueClip",
    "layer": "LayerClip",
    "adaptive": "AdaptiveClip",
    "percentile": "PercentileClip",
    "zscore": "ZScoreClip",
    "chain": "Chain",
}
REMEMBER = ("percentile", "zscore")  # change nothing at the first step
INF, NAN = float("inf"), float("nan")


def build(values):
    """What Hydra makes of a section, and of those inside it."""
    if not isinstance(values, dict):
        return values
    values = {key: build(value) for key, value in values.items()}
    if "_target_" not in values:
        return values
    module, attribute = values.pop("_target_").rsplit(".", 1)
    return getattr(importlib.import_module(module), attribute)(**values)


def read(name):
    return yaml.safe_load((CONF / f"{name}.yaml").read_text())


def make(name):
    return build(read(name))


def make_stepped(name, num_steps=30):
    """A clip that has seen so many steps that it clips what stands out."""
    chosen = make(name)
    generator = torch.Generator().manual_seed(0)
    for _ in range(num_steps):
        chosen(make_parameters(torch.rand(4, generator=generator)))
    return chosen


def give_gradients(parameters, gradients):
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient.clone()


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
    classes = [c for _, c in inspect.getmembers(stabletrain.gradient, inspect.isclass) if issubclass(c, Clip)]
    assert {c.__name__ for c in classes if not inspect.isabstract(c)} == set(ROWS.values())


def test_the_docs_have_a_heading_for_each_option():
    page = (Path(__file__).parents[2] / "docs" / "clipping.md").read_text().splitlines()
    assert [line for line in page if line.startswith("## ")][: len(ROWS)] == [f"## {name}" for name in ROWS]


def test_a_chain_in_the_configuration_is_the_default_chain():
    values = read("chain")["clips"]
    assert {name: build(value).__dict__ for name, value in values.items()} == {
        name: chosen.__dict__ for name, chosen in Chain().clips.items()
    }
    for name, value in values.items():
        assert value == read(name)


@pytest.mark.parametrize("name", [name for name in ROWS if name != "chain"])
def test_yaml_gives_every_number_of_the_class(name):
    values = read(name)
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
    limit = 1e-5 if name in ("adaptive", "chain") else 0.5  # a hundredth of the least weight norm
    assert scalar.grad.item() == pytest.approx(limit)
    assert chosen([zero]).item() == 0


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("bad", [INF, NAN, 0.0])
def test_a_norm_that_says_nothing_is_not_remembered(name, bad):
    seen, spared = make_stepped(name), make_stepped(name)
    for _ in range(5):
        seen(make_parameters(torch.tensor([bad, bad])))
    gradients = [torch.rand(4) * 100]
    first, second = make_parameters(*gradients), make_parameters(*gradients)
    assert torch.equal(seen(first), spared(second))
    assert torch.equal(first[0].grad, second[0].grad)
    assert same(seen.state_dict(), spared.state_dict())


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("num_before", [0, 10, 40])
def test_stopped_and_gone_on_is_the_same_as_straight_through(name, num_before, tmp_path):
    steps = [[torch.randn(3, 2) * 4**k, torch.randn(2)] for k in torch.randn(60).tolist()]
    straight, stopped, resumed = make(name), make(name), make(name)
    for number, gradients in enumerate(steps):
        if number == num_before:
            torch.save(stopped.state_dict(), tmp_path / "state")
            resumed.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
        first, second = make_parameters(*gradients), make_parameters(*gradients)
        straight(first)
        (stopped if number < num_before else resumed)(second)
        assert all(torch.equal(a.grad, b.grad) for a, b in zip(first, second, strict=True))
    assert same(straight.state_dict(), resumed.state_dict())


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("other", ROWS)
def test_refuses_the_state_of_another(name, other):
    state = make_stepped(other).state_dict()
    if set(state) == set(make(name).state_dict()):
        make(name).load_state_dict(state)
        return
    before = make_stepped(name)
    with pytest.raises(RequestError):
        before.load_state_dict(state)
    assert same(before.state_dict(), make_stepped(name).state_dict())


def same(first, second):
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    return first == second


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(), (1,), (5,), (1, 1), (4, 3), (3, 1), (2, 3, 4), (2, 3, 2, 2)])
def test_any_shape_gets_smaller_and_keeps_its_signs(name, dtype, shape):
    chosen = make_stepped(name)
    gradient = torch.randn(shape).to(dtype) * 100
    (parameter,) = make_parameters(gradient)
    norm = chosen([parameter])
    assert float(norm) == pytest.approx(float(gradient.double().norm()), rel=1e-2)
    assert parameter.grad.double().norm() <= norm.double() * (1 + 1e-6)
    assert parameter.grad.sign().equal(gradient.sign())
    if name != "none" and float(norm) > 10:
        assert parameter.grad.double().norm() < norm.double()


@pytest.mark.parametrize("name", ROWS)
def test_sparse_gradients_are_clipped_as_the_dense_ones(name):
    dense, sparse = (torch.nn.Embedding(6, 3, sparse=flag) for flag in (False, True))
    with torch.no_grad():
        sparse.weight.copy_(dense.weight)
    first, second = make_stepped(name), make_stepped(name)
    for indices in ([1, 4, 1], [0, 0, 0, 5], []):
        for embedding in (dense, sparse):
            embedding.zero_grad()
            (embedding(torch.tensor(indices, dtype=torch.long)) ** 2).sum().mul(100).backward()
        torch.testing.assert_close(second([sparse.weight]), first([dense.weight]))
        assert sparse.weight.grad.is_sparse
        torch.testing.assert_close(sparse.weight.grad.to_dense(), dense.weight.grad)


@pytest.mark.parametrize("name", ROWS)
def test_gradients_out_of_order_in_memory_are_clipped_in_place(name):
    gradient = torch.randn(4, 3, 5, 5) * 100
    (plain,) = make_parameters(gradient)
    other = torch.nn.Parameter(torch.zeros(4, 3, 5, 5).to(memory_format=torch.channels_last))
    other.grad = gradient.clone(memory_format=torch.channels_last)
    make_stepped(name)([plain])
    make_stepped(name)([other])
    torch.testing.assert_close(other.grad, plain.grad)


@pytest.mark.parametrize("name", ROWS)
def test_a_parameter_given_twice_is_clipped_once(name):
    once, twice = (make_parameters(torch.tensor([30.0, 40.0])) for _ in range(2))
    assert float(make_stepped(name)(twice * 2)) == float(make_stepped(name)(once))
    assert torch.equal(once[0].grad, twice[0].grad)


@pytest.mark.parametrize("name", ROWS)
def test_by_name_remembers_what_the_same_parameters_had(name):
    named, other, held = (make_parameters(torch.zeros(4), torch.zeros(3, 2)) for _ in range(3))
    chosen = make(name)
    for k in torch.randn(40).tolist():
        gradients = [torch.randn(4) * 4**k, torch.randn(3, 2)]
        for parameters in (named, other, held):
            give_gradients(parameters, gradients)
        clip_gradients_(named, name)
        chosen(held)
        assert all(torch.equal(a.grad, b.grad) for a, b in zip(named, held, strict=True))
    give_gradients(other, [torch.full((4,), 1e3), torch.zeros(3, 2)])
    clip_gradients_(iter(other), name)
    assert (float(other[0].grad.norm()) == 2e3) == (name in (*REMEMBER, "none"))  # nothing from `named`


@pytest.mark.parametrize("name", ROWS)
def test_by_name_and_as_instance_are_the_same(name):
    gradients = [torch.randn(4) * 10, torch.randn(2, 3)]
    first, second = make_parameters(*gradients), make_parameters(*gradients)
    assert torch.equal(clip_gradients_(first, name), clip_gradients_(second, make(name)))
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(first, second, strict=True))
