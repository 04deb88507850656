"""Initializations of convolution kernels, groups and parametrized weights."""

import math

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from stabletrain.errors import RequestError
from stabletrain.network import initialize_
from stabletrain.network.initialization import INITIALIZATIONS, Orthogonal
from stabletrain.network.initialization.fill import orthogonal_
from stabletrain.network.introspection.weights import find_blocks

PLAIN = ("normal", "xavier", "he", "lecun", "orthogonal", "identity")


def groups_of(conv):
    """The kernel of each group as (out, in, …), by the definition of a grouped convolution."""
    inputs, outputs = conv.in_channels // conv.groups, conv.out_channels // conv.groups
    for group in range(conv.groups):
        if conv.transposed:
            yield conv.weight.detach()[group * inputs : (group + 1) * inputs].transpose(0, 1)
        else:
            yield conv.weight.detach()[group * outputs : (group + 1) * outputs]


KERNELS = [
    nn.Conv1d(32, 64, 5, groups=4),
    nn.Conv2d(16, 32, 3, groups=2),
    nn.Conv2d(48, 48, 7, groups=48),
    nn.ConvTranspose1d(32, 16, 5, groups=2),
    nn.ConvTranspose2d(16, 32, 3, groups=4),
    nn.Conv3d(4, 8, 3),
]


@pytest.mark.parametrize("conv", KERNELS, ids=str)
def test_groups_are_convolutions_of_their_own(conv):
    found = [block.weight for block in find_blocks(conv)]
    assert len(found) == conv.groups
    assert all(torch.equal(a, b) for a, b in zip(found, groups_of(conv), strict=True))
    initialize_(conv, "orthogonal")
    for kernel in groups_of(conv):
        flat = kernel.flatten(1)
        gram = flat @ flat.T if flat.size(0) <= flat.size(1) else flat.T @ flat
        torch.testing.assert_close(gram, torch.eye(len(gram)), atol=1e-5, rtol=0)
    fan_in = conv.in_channels // conv.groups * conv.weight[0, 0].numel()
    fan_out = conv.out_channels // conv.groups * conv.weight[0, 0].numel()
    within = 6 / math.sqrt(2 * conv.weight.numel())
    for init, fan in (("lecun", fan_in), ("he", fan_in / 2), ("xavier", (fan_in + fan_out) / 2)):
        initialize_(conv, init)
        assert float(conv.weight.detach().std()) == pytest.approx(fan**-0.5, rel=within)


@pytest.mark.parametrize("init", ["lecun", "orthogonal"])
def test_grouped_convolutions_keep_the_variance(init):
    for conv in (nn.Conv2d(64, 64, 3, groups=64), nn.Conv2d(64, 64, 3, groups=8), nn.Conv1d(64, 64, 5)):
        initialize_(conv, init)
        x = torch.randn(16, 64, *[16] * (conv.weight.dim() - 2))
        assert float(conv(x).detach().var()) == pytest.approx(1.0, rel=0.2)


def test_identity_passes_every_channel_of_a_depthwise_convolution():
    x = torch.randn(2, 6, 9)
    conv = initialize_(nn.Conv1d(6, 6, 3, padding=1, groups=6), "identity")
    assert torch.equal(conv(x), x)


@pytest.mark.parametrize("kind", [nn.Conv1d, nn.Conv2d, nn.Conv3d])
@pytest.mark.parametrize("size", [3, 5])
def test_delta_keeps_the_length_of_every_image(kind, size):
    conv = kind(6, 8, size, padding=size // 2, padding_mode="circular", bias=False)
    initialize_(conv, Orthogonal(gain=1.5, kernel="delta"))
    x = torch.randn(3, 6, *[6] * (conv.weight.dim() - 2))
    torch.testing.assert_close(conv(x).norm(), 1.5 * x.norm())
    outside = conv.weight.detach().clone()
    outside[(slice(None), slice(None), *[size // 2] * (conv.weight.dim() - 2))] = 0
    assert not outside.any()
    flat = initialize_(kind(6, 8, size, bias=False), Orthogonal(gain=1.5))  # the negative control
    assert flat.weight.flatten(2).ne(0).all()


def test_delta_of_more_inputs_than_outputs_has_orthonormal_rows():
    weight = orthogonal_(torch.empty(4, 9, 3), 2.0, "delta")
    torch.testing.assert_close(weight[:, :, 1] @ weight[:, :, 1].T, 4 * torch.eye(4))
    assert not weight[:, :, [0, 2]].any()


def test_delta_leaves_kernels_that_step_over_positions_flat():
    patches = initialize_(nn.Conv2d(3, 48, 4, stride=4), Orthogonal(kernel="delta"))
    flat = patches.weight.detach().flatten(1)
    torch.testing.assert_close(flat @ flat.T, torch.eye(48))
    assert patches.weight.ne(0).all()


def test_delta_is_the_same_as_flat_without_positions():
    torch.manual_seed(1)
    first = orthogonal_(torch.empty(5, 5), kernel="delta")
    torch.manual_seed(1)
    assert torch.equal(first, orthogonal_(torch.empty(5, 5)))
    with pytest.raises(RequestError) as caught:
        Orthogonal(kernel="dleta")
    assert caught.value.closest == "delta"


@pytest.mark.parametrize("init", PLAIN)
def test_weight_norm_holds_what_is_initialized(init):
    plain, normed = nn.Linear(8, 6), parametrizations.weight_norm(nn.Linear(8, 6))
    torch.manual_seed(1)
    initialize_(plain, init)
    torch.manual_seed(1)
    initialize_(normed, init)
    torch.testing.assert_close(normed.weight, plain.weight)
    assert normed.bias.eq(0).all()
    normed(torch.randn(2, 8)).sum().backward()
    assert all(p.grad is not None for p in normed.parameters())


def test_spectral_norm_divides_by_the_largest_singular_value():
    model = nn.Sequential(parametrizations.spectral_norm(nn.Linear(8, 6)), nn.BatchNorm1d(6))
    initialize_(model, "orthogonal", activation=nn.ReLU())
    for mode in (True, False):
        model.train(mode)
        torch.testing.assert_close(torch.linalg.svdvals(model[0].weight), torch.ones(6))
    initialize_(model.eval(), "he")  # takes effect in evaluation mode too
    assert float(torch.linalg.matrix_norm(model[0].weight.detach(), 2)) == pytest.approx(1, rel=0.05)
    assert not any(module.training for module in model.modules())


def test_default_does_not_touch_what_lies_behind_a_parametrization():
    model = parametrizations.spectral_norm(nn.Linear(8, 6))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    initialize_(model, "default")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_parametrization_that_holds_no_other_weight_keeps_its_own():
    model = parametrizations.orthogonal(nn.Linear(4, 4))
    initialize_(model, "he")
    torch.testing.assert_close(model.weight @ model.weight.T, torch.eye(4))


def test_lsuv_through_weight_norm():
    model = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 20))
    for layer in (model[0], model[2]):
        parametrizations.weight_norm(layer)
    x = 3 * torch.randn(200, 8)
    initialize_(model, "lsuv", inputs=x)
    assert float(model[0](x).detach().var(correction=0)) == pytest.approx(1, abs=0.01)
    assert float(model(x).detach().var(correction=0)) == pytest.approx(1, abs=0.01)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_older_weight_norm_keeps_its_own():
    model = nn.utils.weight_norm(nn.Linear(4, 3))
    before = model(torch.ones(1, 4)) - model.bias
    initialize_(model, "he")
    torch.testing.assert_close(model(torch.ones(1, 4)), before)


def test_options_go_to_the_class():
    linear = initialize_(nn.Linear(100, 100), "normal", std=0.5)
    assert float(linear.weight.detach().std()) == pytest.approx(0.5, rel=0.05)
    for init, option, closest in (("normal", "sdt", "std"), ("default", "std", None), (Orthogonal(), "gain", None)):
        with pytest.raises(RequestError) as caught:
            initialize_(linear, init, **{option: 1.0})
        assert caught.value.key == option
        assert caught.value.closest == closest
    with pytest.raises(RequestError, match="out of range"):
        initialize_(linear, "normal", std=-1.0)


@pytest.mark.parametrize("init", sorted(INITIALIZATIONS.keys() - {"depth_scaled", "fixup", "chrono"}))
def test_module_without_weights(init):
    module, state = nn.Sequential(nn.ReLU()), torch.get_rng_state()
    assert initialize_(module, init, inputs=torch.ones(2, 2)) is module
    assert torch.equal(torch.get_rng_state(), state), "no random number is sampled where there is nothing to fill"
