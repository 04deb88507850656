"""The plain and the residual convolutional network, rewritten with functional calls."""

import functools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from stabletrain.errors import RequestError
from stabletrain.network import CNN, Parts, ResNet
from stabletrain.network.models.convolution import average, build_convolution, halve, to_channels
from stabletrain.network.normalization import BatchNorm, GroupNorm, InstanceNorm, LayerNorm
from stabletrain.network.residual import (
    AddResidual,
    DenseResidual,
    HighwayResidual,
    LayerScaleResidual,
    NoResidual,
    ReZeroResidual,
    ScaledResidual,
)

EXACT = {"rtol": 1e-11, "atol": 1e-11}
FORMS = {"image": (4, 3, 8, 12), "sequence": (4, 13, 3)}
FAMILIES = [CNN, ResNet]


def randomize(model):
    """Random values in all parameters, so that each of them affects the output."""
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model.double()


def convolve(x, layer):
    apply = F.conv2d if x.dim() == 4 else F.conv1d
    return apply(x, layer.weight, layer.bias, stride=layer.stride, padding=layer.padding)


def batch(x, norm):
    axes = (0, *range(2, x.dim()))
    mean = x.mean(axes, keepdim=True)
    variance = (x - mean).square().mean(axes, keepdim=True)
    shape = [1, -1] + [1] * (x.dim() - 2)
    return (x - mean) / (variance + 1e-5).sqrt() * norm.weight.view(shape) + norm.bias.view(shape)


def compare(model, expected, x):
    torch.testing.assert_close(model(x), expected, **EXACT)
    pairs = [torch.autograd.grad(y.square().sum(), list(model.parameters())) for y in (model(x), expected)]
    for (name, _), found, wanted in zip(model.named_parameters(), *pairs, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-8, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("form", FORMS)
def test_cnn_agrees_with_functional_calls(form):
    model = randomize(CNN(3, 2, Parts(nn.ReLU, BatchNorm, AddResidual), form=form, depth=4, width=6))
    x = torch.randn(FORMS[form], dtype=torch.float64)
    h = x.mT if form == "sequence" else x
    for number, layer in enumerate(model.layers, start=1):
        branch = batch(convolve(h, layer.conv), layer.norm).clamp(min=0)
        h = h + branch if number > 1 else branch
        if number in (1, 2):  # after 4/3 and 8/3 layers
            h = F.avg_pool2d(h, 2) if form == "image" else F.avg_pool1d(h, 2)
    h = h.flatten(2).mean(2)
    compare(model, h @ model.head.weight.T + model.head.bias, x)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("order", ["post", "pre"])
def test_resnet_agrees_with_functional_calls(form, order):
    parts = Parts(nn.ReLU, BatchNorm, AddResidual)
    model = randomize(ResNet(3, 2, parts, form=form, depth=4, width=4, order=order))
    x = torch.randn(FORMS[form], dtype=torch.float64)
    h = convolve(x.mT if form == "sequence" else x, model.stem)
    if order == "post":
        h = batch(h, model.norm).relu()
    sizes = []
    for block in model.blocks:
        skip = convolve(h, block.shortcut) if isinstance(block.shortcut, (nn.Conv1d, nn.Conv2d)) else h
        if order == "post":
            f = batch(convolve(h, block.conv1), block.norm1).relu()
            h = (skip + batch(convolve(f, block.conv2), block.norm2)).relu()
        else:
            f = convolve(batch(h, block.norm1).relu(), block.conv1)
            h = skip + convolve(batch(f, block.norm2).relu(), block.conv2)
        sizes.append(tuple(h.shape[1:]))
    if order == "pre":
        h = batch(h, model.norm).relu()
    compare(model, h.flatten(2).mean(2) @ model.head.weight.T + model.head.bias, x)
    # Stages of 2, 1 and 1 blocks: channels double where positions halve.
    if form == "image":
        assert sizes == [(4, 8, 12), (4, 8, 12), (8, 4, 6), (16, 2, 3)]
    else:
        assert sizes == [(4, 13), (4, 13), (8, 7), (16, 4)]


@pytest.mark.parametrize("residual", [NoResidual, AddResidual, ScaledResidual, ReZeroResidual, LayerScaleResidual])
def test_a_block_joins_by_its_residual(residual):
    model = randomize(ResNet(3, 2, Parts(nn.Tanh, LayerNorm, residual), depth=1, width=4))
    block, x = model.blocks[0], torch.randn(2, 4, 5, 5, dtype=torch.float64)
    branch = block.norm2(block.conv2(block.norm1(block.conv1(x)).tanh()))
    torch.testing.assert_close(block(x), block.residual(x, branch).tanh(), **EXACT)


def test_where_the_skip_changes_shape_it_is_a_convolution_if_it_is_used():
    kinds = {
        residual: [type(b.shortcut) for b in ResNet(3, 2, Parts(residual=residual), depth=3, width=4).blocks]
        for residual in (AddResidual, HighwayResidual, NoResidual)
    }
    assert kinds[AddResidual] == kinds[HighwayResidual] == [nn.Identity, nn.Conv2d, nn.Conv2d]
    assert kinds[NoResidual] == [nn.Identity] * 3
    block = ResNet(3, 2, depth=3, width=4).blocks[1]
    assert (block.shortcut.kernel_size, block.shortcut.stride) == ((1, 1), (2, 2))


@pytest.mark.parametrize(
    ("depth", "strides"), [(1, [1]), (2, [1, 2]), (3, [1, 2, 2]), (4, [1, 1, 2, 2]), (7, [1, 1, 1, 2, 1, 2, 1])]
)
def test_stages_of_any_depth(depth, strides):
    model = ResNet(3, 2, depth=depth, width=4)
    assert [block.conv1.stride[0] for block in model.blocks] == strides
    assert model.head.in_features == 4 * 2 ** (sum(strides) - depth)


@pytest.mark.parametrize(
    ("depth", "after"), [(1, set()), (2, {1}), (3, {1, 2}), (4, {1, 2}), (6, {2, 4}), (9, {3, 6}), (100, {33, 66})]
)
def test_positions_are_halved_after_each_third(depth, after):
    model = CNN(1, 1, depth=depth, width=1)
    seen = []
    for number, layer in enumerate(model.layers, start=1):
        layer.register_forward_hook(lambda _, args, out, number=number: seen.append((number, out.shape[-1])))
    model(torch.randn(1, 1, 16, 16))
    sizes = dict(seen)
    assert {n for n in sizes if n < depth and sizes[n + 1] < sizes[n]} == after - {depth}


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((1, 2, 8, 8), (4, 4)), ((1, 2, 5, 3), (2, 3)), ((1, 2, 4, 1), (2, 1)), ((1, 2, 3, 3), (3, 3)), ((1, 2, 9), (4,))],
)
def test_halving_leaves_short_axes_alone(shape, expected):
    assert halve(torch.ones(shape)).shape[2:] == expected
    assert halve(torch.ones(shape)).eq(1).all()


def test_halving_and_averaging_are_means():
    x = torch.randn(2, 3, 4, 6, dtype=torch.float64)
    pairs = (x[:, :, ::2, ::2] + x[:, :, 1::2, ::2] + x[:, :, ::2, 1::2] + x[:, :, 1::2, 1::2]) / 4
    torch.testing.assert_close(halve(x), pairs, **EXACT)
    torch.testing.assert_close(average(halve(x)), average(x), **EXACT)
    assert torch.equal(to_channels(torch.ones(2, 5, 3), "sequence"), torch.ones(2, 3, 5))


@pytest.mark.parametrize(("size", "stride"), [(1, 1), (3, 1), (5, 1), (3, 2), (1, 2)])
def test_convolutions_keep_the_positions(size, stride):
    x = torch.randn(2, 3, 7, 4)
    found = build_convolution("image", 3, 5, size, stride)(x).shape
    assert found == (2, 5, -(-7 // stride), -(-4 // stride))


# --- corners -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize(
    ("form", "shape"),
    [
        ("image", (2, 3, 1, 1)),
        ("image", (2, 3, 2, 2)),
        ("image", (2, 3, 1, 9)),
        ("image", (2, 3, 17, 5)),
        ("sequence", (2, 1, 3)),
        ("sequence", (2, 2, 3)),
        ("sequence", (2, 3, 3)),
    ],
)
def test_small_and_long_inputs_reach_every_parameter(family, form, shape, depth):
    for residual in (NoResidual, AddResidual, HighwayResidual):
        model = family(3, 2, Parts(nn.Tanh, LayerNorm, residual), form=form, depth=depth, width=4)
        y = model(torch.randn(shape))
        assert y.shape == (2, 2)
        y.square().sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_width_one(family):
    assert family(1, 1, Parts(), depth=2, width=1)(torch.randn(1, 1, 4, 4)).shape == (1, 1)


@pytest.mark.parametrize("family", FAMILIES)
def test_dropout_is_off_when_predicting(family):
    model = family(3, 2, Parts(residual=AddResidual), depth=2, width=8, dropout=0.5)
    x = torch.randn(2, 3, 8, 8)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


def test_dropout_of_the_cnn_drops_channels():
    model = CNN(3, 2, Parts(nn.Sigmoid), depth=1, width=64, dropout=0.5)
    seen = []
    model.head.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model(torch.randn(4, 3, 8, 8))
    assert 0.3 < float(seen[0].eq(0).float().mean()) < 0.7


def test_dense_joins_widen_the_cnn():
    model = CNN(3, 2, Parts(residual=DenseResidual), depth=4, width=5)
    assert [layer.conv.in_channels for layer in model.layers] == [3, 5, 10, 15]
    assert model.head.in_features == 20
    assert model(torch.randn(2, 3, 8, 8)).shape == (2, 2)


def test_predictions_of_one_example_do_not_depend_on_the_batch():
    model = ResNet(3, 2, depth=3, width=4).double()
    x = torch.randn(5, 3, 8, 8, dtype=torch.float64)
    model(x)
    model.eval()
    torch.testing.assert_close(model(x)[2:3], model(x[2:3]), **EXACT)


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16(family):
    model = family(3, 2, Parts(nn.ReLU, GroupNorm, AddResidual), depth=3, width=8).bfloat16()
    assert model(torch.randn(2, 3, 8, 8, dtype=torch.bfloat16)).isfinite().all()


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (functools.partial(CNN, depth=0), "depth"),
        (functools.partial(ResNet, width=0), "width"),
        (functools.partial(ResNet, order="after"), "order"),
        (functools.partial(CNN, form="imgae"), "form"),
        (functools.partial(CNN, dropout=1.0), "dropout"),
        (functools.partial(ResNet, parts=Parts(residual=DenseResidual)), "residual"),
        (functools.partial(ResNet, parts=Parts(norm=GroupNorm), width=6), "num_groups"),
    ],
)
def test_refusals(make, key):
    with pytest.raises(RequestError) as caught:
        make(3, 2)
    assert caught.value.key == key


def test_instance_norm_needs_more_than_one_position():
    model = CNN(3, 2, Parts(norm=InstanceNorm), depth=2, width=4)
    assert model(torch.randn(1, 3, 2, 2)).shape == (1, 2)
    with pytest.raises(ValueError, match="more than 1 spatial element"):
        model(torch.randn(1, 3, 1, 1))
