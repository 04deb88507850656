"""The transformer against torch's own layer, against plain operations, and step by step."""

import functools
import math

import pytest
import torch
from torch import nn

from stabletrain.errors import RequestError
from stabletrain.network import Parts, Transformer
from stabletrain.network.models.transformer import PLACEMENTS, Attention, encode_positions
from stabletrain.network.normalization import (
    NORMS,
    BatchNorm,
    GroupNorm,
    InstanceNorm,
    LayerNorm,
    NoNorm,
    RMSNorm,
    SpectralNorm,
    WeightNorm,
)
from stabletrain.network.residual import AddResidual, DeepNormResidual, DenseResidual, HighwayResidual, ScaledResidual

EXACT = {"rtol": 1e-10, "atol": 1e-10}
PARTS = Parts(nn.ReLU, LayerNorm, AddResidual)


def randomize(model):
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.4)
    return model.double()


def copy_into(layer, attention, feed_forward):
    """Give torch.nn.TransformerEncoderLayer the weights of our two branches."""
    mine, theirs = attention.branch, layer.self_attn
    projections = [mine.query, mine.key, mine.value]
    values = {
        theirs.in_proj_weight: torch.cat([p.weight for p in projections]),
        theirs.in_proj_bias: torch.cat([p.bias for p in projections]),
        theirs.out_proj.weight: mine.output.weight,
        theirs.out_proj.bias: mine.output.bias,
        layer.linear1.weight: feed_forward.branch.linear1.weight,
        layer.linear1.bias: feed_forward.branch.linear1.bias,
        layer.linear2.weight: feed_forward.branch.linear2.weight,
        layer.linear2.bias: feed_forward.branch.linear2.bias,
        layer.norm1.weight: attention.norm.weight,
        layer.norm1.bias: attention.norm.bias,
        layer.norm2.weight: feed_forward.norm.weight,
        layer.norm2.bias: feed_forward.norm.bias,
    }
    for parameter, value in values.items():
        parameter.data.copy_(value)


@pytest.mark.parametrize("output", ["one", "each_step", "next_step"])
@pytest.mark.parametrize("placement", ["pre", "post"])
def test_agrees_with_the_encoder_layer_of_torch(placement, output):
    model = randomize(Transformer(3, 2, PARTS, depth=2, width=8, num_heads=2, placement=placement, output=output))
    x = torch.randn(4, 5, 3, dtype=torch.float64)
    mask = nn.Transformer.generate_square_subsequent_mask(5, dtype=torch.float64) if output == "next_step" else None
    h = model.embedding(x) + encode_positions(5, 8).double()
    for attention, feed_forward in zip(model.layers[::2], model.layers[1::2], strict=True):
        layer = nn.TransformerEncoderLayer(
            8, 2, 32, dropout=0.0, activation="relu", batch_first=True, norm_first=placement == "pre"
        ).double()
        copy_into(layer, attention, feed_forward)
        h = layer(h, src_mask=mask)
    h = model.norm(h)
    expected = model.head(h.mean(1) if output == "one" else h)
    torch.testing.assert_close(model(x), expected, **EXACT)
    assert model(x).shape == ((4, 2) if output == "one" else (4, 5, 2))


@pytest.mark.parametrize("norm", [LayerNorm, RMSNorm])
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_every_placement_agrees_with_plain_operations(placement, norm):
    parts = Parts(nn.GELU, norm, functools.partial(ScaledResidual, factor=0.5))
    model = randomize(Transformer(3, 2, parts, depth=2, width=8, num_heads=2, placement=placement))
    x = torch.randn(4, 5, 3, dtype=torch.float64)
    h = x @ model.embedding.weight.T + model.embedding.bias + encode_positions(5, 8).double()
    for layer in model.layers:
        z = h if placement == "post" else normalize(h, layer.norm)
        f = attend(z, layer.branch) if isinstance(layer.branch, Attention) else feed(z, layer.branch)
        if placement == "sandwich":
            f = normalize(f, layer.norm_after)
        h = h + 0.5 * f
        if placement == "post":
            h = normalize(h, layer.norm)
    h = h if placement == "post" else normalize(h, model.norm)
    expected = h.mean(1) @ model.head.weight.T + model.head.bias
    torch.testing.assert_close(model(x), expected, **EXACT)
    pairs = [torch.autograd.grad(y.square().sum(), list(model.parameters())) for y in (model(x), expected)]
    for found, wanted in zip(*pairs, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-8)


def normalize(x, norm):
    if isinstance(norm, RMSNorm):
        return norm.weight * x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    centred = x - x.mean(-1, keepdim=True)
    return norm.weight * centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() + norm.bias


def attend(x, branch):
    """Head by head and step by step."""
    q, k, v = (x @ p.weight.T + p.bias for p in (branch.query, branch.key, branch.value))
    mixed = torch.zeros_like(x)
    size = x.size(-1) // branch.num_heads
    for head in range(branch.num_heads):
        units = slice(head * size, (head + 1) * size)
        for step in range(x.size(1)):
            scores = (q[:, step, None, units] * k[:, :, units]).sum(-1) / math.sqrt(size)  # (batch, time)
            shares = scores.exp() / scores.exp().sum(-1, keepdim=True)
            mixed[:, step, units] = (shares.unsqueeze(-1) * v[:, :, units]).sum(1)
    return mixed @ branch.output.weight.T + branch.output.bias


def feed(x, branch):
    z = x @ branch.linear1.weight.T + branch.linear1.bias
    return z * 0.5 * (1 + torch.erf(z / math.sqrt(2))) @ branch.linear2.weight.T + branch.linear2.bias


def test_positions_are_the_sinusoids_of_the_paper():
    """Vaswani et al. 2017, section 3.5: PE(t, 2i) = sin(t / 10000^(2i/d)), PE(t, 2i + 1) = cos of the same."""
    found = encode_positions(50, 6)
    assert found.shape == (50, 6)
    for step in (0, 1, 7, 49):
        for unit in range(6):
            angle = step / 10_000 ** (2 * (unit // 2) / 6)
            assert found[step, unit] == pytest.approx((math.sin, math.cos)[unit % 2](angle), abs=1e-4)


def test_without_positions_the_order_would_not_matter(monkeypatch):
    model = Transformer(3, 2, PARTS, width=8).double()
    x = torch.randn(2, 5, 3, dtype=torch.float64)
    assert not torch.allclose(model(x), model(x.flip(1)))
    blind = lambda steps, width, device: torch.zeros(steps, width)  # noqa: E731
    monkeypatch.setattr("stabletrain.network.models.transformer.encode_positions", blind)
    torch.testing.assert_close(model(x), model(x.flip(1)), **EXACT)


# --- causality -------------------------------------------------------------------------------------------------

BLIND_NORMS = [NoNorm, LayerNorm, GroupNorm, RMSNorm, WeightNorm, SpectralNorm]


@pytest.mark.parametrize("norm", BLIND_NORMS)
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_predicting_the_next_step_sees_none_that_follows(placement, norm):
    parts = Parts(nn.GELU, norm, AddResidual)
    model = Transformer(3, 2, parts, depth=2, width=8, output="next_step", placement=placement).double()
    x = torch.randn(2, 6, 3, dtype=torch.float64)
    changed = x.clone()
    changed[:, 3:] = 100.0
    assert torch.equal(model(x)[:, :3], model(changed)[:, :3])
    assert not torch.allclose(model(x)[:, 3:], model(changed)[:, 3:])
    inputs = x.clone().requires_grad_()
    for step in range(6):
        (gradient,) = torch.autograd.grad(model(inputs)[:, step].square().sum(), inputs)
        assert gradient[:, step + 1 :].eq(0).all()
        assert gradient[:, : step + 1].ne(0).any(-1).all()  # and all before


def test_the_other_outputs_see_every_step():
    for output in ("one", "each_step"):
        model = Transformer(3, 2, PARTS, width=8, output=output).double()
        x = torch.randn(2, 6, 3, dtype=torch.float64, requires_grad=True)
        y = model(x)
        (gradient,) = torch.autograd.grad((y if output == "one" else y[:, 0]).square().sum(), x)
        assert gradient.ne(0).any(-1).all()


@pytest.mark.parametrize("norm", [BatchNorm, InstanceNorm])
def test_norms_that_would_show_the_future_are_refused(norm):
    """Includes batch norm, whose statistics are over all steps."""
    parts = Parts(norm=norm, residual=AddResidual)
    with pytest.raises(RequestError, match="all steps") as caught:
        Transformer(3, 2, parts, output="next_step")
    assert caught.value.key == "norm"
    for output in ("one", "each_step"):
        assert Transformer(3, 2, parts, output=output)(torch.randn(2, 5, 3)).isfinite().all()


def test_all_other_norms_are_tried_above():
    assert {*BLIND_NORMS, BatchNorm, InstanceNorm} == set(NORMS.values())


# --- corners -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("output", ["one", "each_step", "next_step"])
@pytest.mark.parametrize("num_steps", [1, 2, 3])
def test_short_sequences_reach_every_parameter(num_steps, output, placement):
    model = Transformer(3, 2, PARTS, depth=1, width=4, num_heads=2, output=output, placement=placement)
    y = model(torch.randn(2, num_steps, 3))
    y.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_deepnorm_keeps_the_signal_over_many_layers():
    parts = Parts(nn.ReLU, LayerNorm, DeepNormResidual)
    model = Transformer(3, 2, parts, depth=50, width=8, num_heads=2, placement="post")
    x = torch.randn(4, 5, 3, requires_grad=True)
    model(x).square().sum().backward()
    assert x.grad.isfinite().all()
    assert x.grad.abs().max() > 1e-6


def test_huge_inputs_stay_finite():
    model = Transformer(3, 2, PARTS, width=8)
    assert model(torch.full((2, 4, 3), 1e18)).isfinite().all()


def test_bfloat16():
    model = Transformer(3, 2, PARTS, width=8).bfloat16()
    y = model(torch.randn(2, 4, 3, dtype=torch.bfloat16))
    assert y.dtype == torch.bfloat16
    assert y.isfinite().all()


def test_dropout_spares_the_skip_and_is_off_when_predicting():
    model = Transformer(3, 2, PARTS, width=8, dropout=0.9)
    x = torch.randn(2, 4, 3)
    assert not torch.equal(model(x), model(x))
    layer = model.layers[0]
    layer.dropout.p = 1.0
    h = torch.randn(2, 4, 8)
    assert torch.equal(layer(h), h)
    model.eval()
    assert torch.equal(model(x), model(x))


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"width": 6}, "width"),
        ({"width": 5, "num_heads": 5}, "width"),
        ({"num_heads": 0}, "num_heads"),
        ({"num_heads": 2.0}, "num_heads"),
        ({"placement": "prae"}, "placement"),
        ({"output": "last"}, "output"),
        ({"depth": 0}, "depth"),
        ({"dropout": 1.0}, "dropout"),
        ({"parts": Parts(norm=LayerNorm, residual=DenseResidual)}, "residual"),
        ({"parts": Parts(norm=LayerNorm, residual=DeepNormResidual)}, "residual"),
        ({"parts": Parts(norm=LayerNorm, residual=DeepNormResidual), "placement": "sandwich"}, "residual"),
        ({"parts": Parts(norm=LayerNorm, residual=HighwayResidual), "stochastic_depth": 0.1}, "stochastic_depth"),
    ],
)
def test_refusals(options, key):
    with pytest.raises(RequestError) as caught:
        Transformer(3, 2, **options)
    assert caught.value.key == key


def test_the_error_names_a_width_that_fits():
    for heads, width in ((3, 12), (4, 12), (1, 2)):
        assert Transformer(3, 2, width=width, num_heads=heads)(torch.randn(1, 2, 3)).shape == (1, 2)
    with pytest.raises(RequestError) as caught:
        Transformer(3, 2, width=9, num_heads=3)
    assert caught.value.allowed == "a multiple of 6"
