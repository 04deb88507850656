"""Every norm in every layout against its equation, in float64, values and gradients."""

import functools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from torch import nn

from stabletrain.errors import RequestError
from stabletrain.network.normalization import (
    NORMS,
    BatchNorm,
    GroupNorm,
    InstanceNorm,
    LayerNorm,
    NoNorm,
    Norm,
    RMSNorm,
    build_norm,
)
from stabletrain.network.normalization.step_norm import StepBatchNorm, build_step_norm, normalize_step
from stabletrain.network.residual import HighwayResidual, ScaledResidual

WIDTH, EPS = 8, 1e-5
SHAPES = {
    "vector": [(6, WIDTH)],
    "sequence": [(3, 5, WIDTH), (2, 1, WIDTH), (2, 3, 4, WIDTH)],
    "channels": [(3, WIDTH, 7), (2, WIDTH, 3, 5), (4, WIDTH, 1, 2), (4, WIDTH)],
}
PLACES = [(layout, shape) for layout, shapes in SHAPES.items() for shape in shapes]
EXACT = {"rtol": 1e-10, "atol": 1e-10}


def center(x, axes):
    """(x − mean) / √(variance + eps), with statistics over `axes`."""
    mean = x.mean(axes, keepdim=True)
    return (x - mean) / ((x - mean).square().mean(axes, keepdim=True) + EPS).sqrt()


def reference(name, x, layout):
    """The equation of each norm, for (batch, width, positions)."""
    axis = 1 if layout == "channels" else x.dim() - 1
    moved = x.movedim(axis, 1).reshape(x.size(0), WIDTH, -1)
    units = (1,) if layout != "channels" else (1, 2)
    groups = moved.reshape(x.size(0), 4, WIDTH // 4, -1)
    value = {
        "none": lambda: moved,
        "weight": lambda: moved,
        "spectral": lambda: moved,
        "batch": lambda: center(moved, (0, 2)),
        "layer": lambda: center(moved, units),
        "group": lambda: center(groups, (2,) if layout != "channels" else (2, 3)).reshape(moved.shape),
        "instance": lambda: center(moved, (2,)),
        "rms": lambda: moved / (moved.square().mean(units, keepdim=True) + EPS).sqrt(),
    }[name]()
    return value.reshape(x.movedim(axis, 1).shape).movedim(1, axis)


def is_refused(name, x, layout):
    return name == "instance" and (layout == "vector" or x.dim() < 3)


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize(("layout", "shape"), PLACES)
def test_values_and_gradients_agree_with_the_equation(name, layout, shape):
    x = (torch.randn(shape, dtype=torch.float64) * 3 + 1).requires_grad_()
    if is_refused(name, x, layout):
        with pytest.raises(RequestError, match="positions"):
            build_norm(NORMS[name], WIDTH, layout)(x)
        return
    if name == "instance" and shape[1] == 1:
        with pytest.raises(ValueError, match="more than 1 spatial element"):
            build_norm(NORMS[name], WIDTH, layout)(x)
        return
    norm = build_norm(NORMS[name], WIDTH, layout).double()
    expected = reference(name, x, layout)
    torch.testing.assert_close(norm(x), expected, **EXACT)
    weights = torch.randn(shape, dtype=torch.float64)
    found, wanted = (torch.autograd.grad((y * weights).sum(), x)[0] for y in (norm(x), expected))
    torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", [name for name in NORMS if name not in ("none", "weight", "spectral")])
@pytest.mark.parametrize(("layout", "shape"), [("sequence", (3, 5, WIDTH)), ("channels", (2, WIDTH, 3, 5))])
def test_gain_and_shift_act_on_the_axis_of_the_width(name, layout, shape):
    norm = build_norm(NORMS[name], WIDTH, layout).double()
    x = torch.randn(shape, dtype=torch.float64)
    plain = norm(x)
    gain, shift = torch.randn(2, WIDTH, dtype=torch.float64)
    norm.weight.data.copy_(gain)
    if name != "rms":
        norm.bias.data.copy_(shift)
    else:
        shift = torch.zeros_like(shift)
    axis = 1 if layout == "channels" else -1
    expected = (plain.movedim(axis, -1) * gain + shift).movedim(-1, axis)
    torch.testing.assert_close(norm(x), expected, **EXACT)


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("layout", ["sequence", "channels"])
def test_what_a_norm_says_about_itself_is_so(name, layout):
    """Change one example, then one position, and check which outputs change."""
    norm = build_norm(NORMS[name], WIDTH, layout).double()
    x = torch.randn(3, WIDTH, 5, dtype=torch.float64)
    x = x.transpose(1, 2) if layout == "sequence" else x
    one, step = x.clone(), x.clone()
    one[0].mul_(2.0)
    (step[:, 0] if layout == "sequence" else step[:, :, 0]).mul_(2.0)
    assert torch.equal(norm(one)[1:], norm(x)[1:]) != norm.reads_batch
    if layout == "sequence":
        assert torch.equal(norm(step)[:, 1:], norm(x)[:, 1:]) != norm.reads_all_steps


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("layout", SHAPES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_near_and_does_not_overflow(name, layout, dtype):
    shape = SHAPES[layout][0]
    x = (torch.randn(shape) * 100 + 300).to(dtype)  # its square overflows float16
    if is_refused(name, x, layout):
        return
    norm = build_norm(NORMS[name], WIDTH, layout)
    expected = norm(x.float())
    found = norm.to(dtype)(x)
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("name", NORMS)
def test_a_constant_input_has_finite_values_and_gradients(name):
    for value in (0.0, 7.0):
        x = torch.full((4, WIDTH, 6), value, requires_grad=True)
        y = build_norm(NORMS[name], WIDTH, "channels")(x)
        y.square().sum().backward()
        assert y.isfinite().all()
        assert x.grad.isfinite().all()
        if name in ("batch", "layer", "group", "instance"):
            torch.testing.assert_close(y, torch.zeros_like(y), rtol=0, atol=1e-3)


@settings(max_examples=40)
@given(
    name=some.sampled_from(["batch", "layer", "group", "instance", "rms"]),
    scale=some.floats(0.1, 1e4),
    seed=some.integers(0, 2**16),
)
def test_the_scale_of_the_input_does_not_matter(name, scale, seed):
    """Holds while eps is small compared with the variance."""
    x = torch.randn(6, WIDTH, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    norm = build_norm(NORMS[name], WIDTH, "channels").double()
    torch.testing.assert_close(norm(scale * x), norm(x), rtol=0, atol=EPS * (1 + scale**-2) * 100)


def test_one_unit():
    for name in ("none", "batch", "rms", "layer"):
        norm = build_norm(NORMS[name], 1, "vector")
        assert norm(torch.randn(3, 1)).isfinite().all()
    assert build_norm(LayerNorm, 1, "vector")(torch.randn(3, 1)).eq(0).all()  # only β remains


def test_a_batch_of_one_when_predicting_and_when_training():
    norm = build_norm(BatchNorm, WIDTH, "vector")
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        norm(torch.randn(1, WIDTH))
    assert norm.eval()(torch.randn(1, WIDTH)).isfinite().all()
    assert build_norm(BatchNorm, WIDTH, "channels")(torch.randn(1, WIDTH, 2)).isfinite().all()


def test_batch_norm_gathers_statistics_and_predicts_with_them():
    norm = build_norm(functools.partial(BatchNorm, momentum=0.25), WIDTH, "channels").double()
    x = torch.randn(3, WIDTH, 4, 5, dtype=torch.float64) + 2
    norm(x)
    torch.testing.assert_close(norm.running_mean, 0.25 * x.mean((0, 2, 3)))
    variance = 0.75 + 0.25 * x.transpose(0, 1).flatten(1).var(1)  # the unbiased one
    torch.testing.assert_close(norm.running_var, variance)
    expected = (x - norm.running_mean.view(-1, 1, 1)) / (variance.view(-1, 1, 1) + EPS).sqrt()
    torch.testing.assert_close(norm.eval()(x), expected)


def test_a_norm_of_others_acts_on_the_last_axis():
    norm = build_norm(nn.LayerNorm, WIDTH, "channels").double()
    x = torch.randn(2, WIDTH, 3, 5, dtype=torch.float64)
    torch.testing.assert_close(norm(x), center(x, (1,)), **EXACT)
    assert type(build_norm(nn.LayerNorm, WIDTH, "sequence")) is nn.LayerNorm


# --- in recurrent steps ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NORMS)
def test_one_step_of_a_recurrent_cell(name):
    if name == "instance":
        with pytest.raises(RequestError, match="positions"):
            build_step_norm(NORMS[name], WIDTH)
        return
    norm = build_step_norm(NORMS[name], WIDTH).double()
    x = torch.randn(6, WIDTH, dtype=torch.float64)
    expected = reference(name, x, "vector") * (torch.tensor(0.1).double() if name == "batch" else 1.0)
    torch.testing.assert_close(normalize_step(norm, x, 3), expected, **EXACT)


def test_batch_norm_in_a_cell_takes_the_numbers_of_the_option():
    norm = build_step_norm(functools.partial(BatchNorm, eps=0.5, momentum=0.2, max_steps=3), WIDTH)
    assert isinstance(norm, StepBatchNorm)
    assert (norm.eps, norm.momentum, norm.max_steps) == (0.5, 0.2, 3)


def test_step_batch_norm_can_be_differentiated_through_many_steps():
    norm = StepBatchNorm(3).double()
    x = torch.randn(5, 4, 3, dtype=torch.float64, requires_grad=True)

    def run(x):
        return torch.stack([norm(x[:, t], t) for t in range(4)]).sin()

    assert torch.autograd.gradcheck(run, (x,))


def test_rms_norm_of_a_zero_state_keeps_the_gradient_in_bounds():
    x = torch.zeros(2, WIDTH, requires_grad=True)
    RMSNorm(WIDTH)(x).sum().backward()
    torch.testing.assert_close(x.grad, torch.full_like(x, 1 / math.sqrt(EPS)))  # 316; with torch's own eps 2,896


# --- errors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda: GroupNorm(8, num_groups=8), "num_groups"),
        (lambda: GroupNorm(8, num_groups=3), "num_groups"),
        (lambda: GroupNorm(8, num_groups=0), "num_groups"),
        (lambda: GroupNorm(8, num_groups=2.0), "num_groups"),
        (lambda: GroupNorm(8, eps=0.0), "eps"),
        (lambda: LayerNorm(8, eps=0.0), "eps"),
        (lambda: RMSNorm(8, eps=-1.0), "eps"),
        (lambda: InstanceNorm(8, eps=float("nan")), "eps"),
        (lambda: BatchNorm(8, eps=0.0), "eps"),
        (lambda: BatchNorm(8, momentum=1.5), "momentum"),
        (lambda: BatchNorm(8, max_steps=0), "max_steps"),
        (lambda: BatchNorm(8, max_steps=3.5), "max_steps"),
        (lambda: ScaledResidual(8, factor=0.0), "factor"),
        (lambda: HighwayResidual(8, bias=float("inf")), "bias"),
        (lambda: HighwayResidual(8, bias="low"), "bias"),
    ],
)
def test_refuses_what_is_out_of_range(make, key):
    with pytest.raises(RequestError) as caught:
        make()
    assert caught.value.key == key


def test_the_ends_of_the_ranges_are_allowed():
    assert BatchNorm(8, momentum=0.0).momentum == 0.0
    assert BatchNorm(8, momentum=1.0, max_steps=1).max_steps == 1
    assert GroupNorm(8, num_groups=1).num_groups == 1
    assert isinstance(NoNorm(8), Norm)
