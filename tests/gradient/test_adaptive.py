"""Adaptive clipping against the paper's equation, unit by unit in Python floats."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from stabletrain.errors import RequestError
from stabletrain.gradient import AdaptiveClip, clip_adaptively_, clip_gradients_


def units_of(shape, groups=None):
    """The places in each unit: one output's in a weight, all in a vector; for (in, out / groups, …) by group."""
    places = list(itertools.product(*map(range, shape)))
    if len(shape) <= 1:
        return [places]
    size = shape[0] if groups is None else shape[0] // groups
    key = (lambda p: p[0]) if groups is None else (lambda p: (p[0] // size, p[1]))
    return [[p for p in places if key(p) == k] for k in sorted({key(p) for p in places})]


def slow_clip(weight, gradient, clipping=0.01, eps=1e-3, groups=None):
    """Brock et al. 2021, equation 3, in Python floats."""
    clipped = gradient.clone().double()
    for unit in units_of(tuple(gradient.shape), groups):
        weight_norm = math.sqrt(math.fsum(float(weight[p]) ** 2 for p in unit))
        gradient_norm = math.sqrt(math.fsum(float(gradient[p]) ** 2 for p in unit))
        limit = clipping * max(weight_norm, eps)
        for p in unit:
            if gradient_norm > limit:
                clipped[p] = float(gradient[p]) * limit / gradient_norm
    return clipped


def set_gradients(module, scale=1.0):
    for parameter in module.parameters():
        size = 10.0 ** -torch.arange(len(parameter)) * scale  # some rows above their limit, some below
        parameter.grad = torch.randn_like(parameter) * size.reshape(-1, *[1] * (parameter.ndim - 1))
    return {name: p.grad.clone() for name, p in module.named_parameters()}


MODULES = [
    nn.Linear(5, 4),
    nn.Linear(1, 4),
    nn.Linear(4, 1),
    nn.Embedding(5, 3),
    nn.Conv1d(4, 6, 3, groups=2),
    nn.Conv2d(3, 4, 2),
    nn.Conv3d(2, 3, 2),
    nn.ConvTranspose1d(4, 6, 3),
    nn.ConvTranspose1d(4, 6, 3, groups=2),
    nn.ConvTranspose2d(3, 2, 2),
    nn.LSTM(3, 4),
    nn.GRU(2, 3, bidirectional=True),
    nn.LayerNorm(6),
    nn.MultiheadAttention(4, 2),
]


@pytest.mark.parametrize("module", MODULES, ids=lambda m: str(m))
def test_every_unit_is_held_to_its_share_of_its_weights(module):
    clip = AdaptiveClip(exclude="none")
    clip.attach(module)
    before = set_gradients(module)
    norm = clip(module.parameters())
    assert float(norm) == pytest.approx(math.sqrt(sum(float(g.double().square().sum()) for g in before.values())))
    groups = {m.weight: m.groups for m in module.modules() if isinstance(m, nn.modules.conv._ConvTransposeNd)}
    for name, parameter in module.named_parameters():
        expected = slow_clip(parameter.detach(), before[name], groups=groups.get(parameter))
        torch.testing.assert_close(parameter.grad.double(), expected, rtol=1e-5, atol=1e-12)
        assert (parameter.grad != before[name]).any()


def test_agrees_with_the_reference_implementation():
    """timm's `adaptive_clip_grad`, version 1.0, written anew: the same but for transposed convolutions."""
    for module in (nn.Linear(5, 4), nn.Conv1d(3, 2, 3), nn.Conv2d(3, 4, 3)):
        before = set_gradients(module)
        clip_adaptively_(module.parameters())
        for name, parameter in module.named_parameters():
            weight, gradient = parameter.detach(), before[name]
            axes = tuple(range(1, weight.ndim)) or None
            limit = torch.linalg.vector_norm(weight, dim=axes, keepdim=True).clamp(min=1e-3) * 0.01
            size = torch.linalg.vector_norm(gradient, dim=axes, keepdim=True)
            expected = torch.where(size < limit, gradient, gradient * (limit / size.clamp(min=1e-6)))
            torch.testing.assert_close(parameter.grad, expected)


def test_stacked_gates_are_clipped_each_by_itself():
    lstm = nn.LSTM(3, 2)
    with torch.no_grad():
        lstm.weight_hh_l0.fill_(1.0)
    gradient = torch.full((8, 2), 1e-3)
    gradient[2:4] = 1.0  # the forget gate's rows
    lstm.weight_hh_l0.grad = gradient.clone()
    AdaptiveClip()([lstm.weight_hh_l0])
    after = lstm.weight_hh_l0.grad
    torch.testing.assert_close(after[2:4].norm(dim=1), torch.full((2,), 0.01 * math.sqrt(2)))
    assert torch.equal(after[:2], gradient[:2])
    assert torch.equal(after[4:], gradient[4:])


def test_weights_that_start_at_zero_train():
    """Without the paper's floor of 1e-3 the limit of a zero weight is 0, and it stays 0 for ever."""
    x, y = torch.randn(64, 3), torch.randn(64, 1)
    for eps, trains in ((1e-3, True), (1e-30, False)):
        model = nn.Linear(3, 1)
        nn.init.zeros_(model.weight)
        nn.init.zeros_(model.bias)
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        for _ in range(100):
            optimizer.zero_grad()
            (model(x) - y).square().mean().backward()
            clip_gradients_(model.parameters(), "adaptive", eps=eps)
            optimizer.step()
        assert (float(model.weight.detach().norm()) > 1e-4) == trains


def test_the_last_linear_layer_is_left_out():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 2), nn.ReLU()))
    last = list(model[2].parameters())
    for exclude, attached, spared in (("last_linear", True, last), ("none", True, []), ("last_linear", False, [])):
        clip = AdaptiveClip(exclude=exclude)
        if attached:
            clip.attach(model)
        before = set_gradients(model, scale=10.0)
        total = math.sqrt(sum(float(g.double().square().sum()) for g in before.values()))
        assert float(clip(model.parameters())) == pytest.approx(total)
        same = [p for n, p in model.named_parameters() if torch.equal(p.grad, before[n])]
        assert set(map(id, same)) == set(map(id, spared))


def test_the_last_linear_layer_may_get_new_parameters_after_it_was_attached():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    clip = AdaptiveClip()
    clip.attach(model)
    model[1].weight = nn.Parameter(model[1].weight.detach().clone())  # as sharding does
    before = set_gradients(model, scale=10.0)
    clip(model.parameters())
    assert torch.equal(model[1].weight.grad, before["1.weight"])
    assert not torch.equal(model[0].weight.grad, before["0.weight"])


def test_a_model_without_linear_layers_has_none_to_leave_out():
    model = nn.Conv1d(2, 2, 3)
    clip = AdaptiveClip()
    clip.attach(model)
    before = set_gradients(model, scale=10.0)
    clip(model.parameters())
    assert not torch.equal(model.weight.grad, before["weight"])


ROWS = st.lists(st.lists(st.floats(-1e6, 1e6, width=32), min_size=3, max_size=3), min_size=1, max_size=4)


@given(ROWS, ROWS, st.floats(1e-4, 10.0))
def test_each_row_is_limited_keeps_its_direction_and_is_not_clipped_again(weights, gradients, clipping):
    num_rows = min(len(weights), len(gradients))
    weight = nn.Parameter(torch.tensor(weights[:num_rows]))
    gradient = torch.tensor(gradients[:num_rows])
    weight.grad = gradient.clone()
    clip_adaptively_([weight], clipping)
    once = weight.grad.clone()
    limit = weight.detach().double().norm(dim=1).clamp(min=1e-3) * clipping
    assert (once.double().norm(dim=1) <= limit * (1 + 1e-5)).all()
    torch.testing.assert_close(once.double(), slow_clip(weight.detach(), gradient, clipping), rtol=1e-4, atol=1e-30)
    clip_adaptively_([weight], clipping)
    torch.testing.assert_close(weight.grad, once, rtol=1e-6, atol=0)


def test_float64_beyond_the_root_of_its_range():
    weight = nn.Parameter(torch.ones(2, 2, dtype=torch.float64))
    weight.grad = torch.full((2, 2), 1e200, dtype=torch.float64)
    clip_adaptively_([weight])
    torch.testing.assert_close(weight.grad, torch.full_like(weight, 0.01))


def test_weights_that_are_not_finite_make_no_gradient_so():
    weight = nn.Parameter(torch.tensor([[math.nan, 1.0], [math.inf, 1.0]]))
    weight.grad = torch.ones(2, 2)
    clip_adaptively_([weight])
    assert torch.equal(weight.grad, torch.ones(2, 2))


def test_refuses_a_gradient_sparse_in_both_axes():
    weight = nn.Parameter(torch.ones(3, 3))
    weight.grad = torch.eye(3).to_sparse()
    with pytest.raises(RequestError) as caught:
        clip_gradients_(weight, "adaptive")
    assert caught.value.closest == "norm"


@pytest.mark.parametrize(
    ("options", "closest"),
    [
        ({"clipping": 0.0}, None),
        ({"eps": 0.0}, None),
        ({"exclude": "last"}, "last_linear"),
        ({"clipping_": 1.0}, "clipping"),
    ],
)
def test_refuses(options, closest):
    with pytest.raises(RequestError) as caught:
        clip_gradients_([], "adaptive", **options)
    assert caught.value.key in options
    assert caught.value.closest == closest
