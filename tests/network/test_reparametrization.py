"""Weight norm and spectral norm of whole networks."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

import stabletrain as st
from stabletrain.errors import RequestError
from stabletrain.network import CNN, GRU, LSTM, MLP, RNN, DenseNet1d, Parts, ResNet, Transformer
from stabletrain.network.normalization import BatchNorm, LayerNorm, NoNorm, SpectralNorm, WeightNorm
from stabletrain.network.residual import DenseResidual, HighwayResidual
from stabletrain.network.surgery.reparametrization import find_reparametrization, reparametrize_

KINDS = {"weight": WeightNorm, "spectral": SpectralNorm}
EXACT = {"rtol": 1e-10, "atol": 1e-10}
SHAPES = {RNN: (5, 6, 3), LSTM: (5, 6, 3), GRU: (5, 6, 3), MLP: (5, 3), CNN: (5, 3, 8, 8), Transformer: (5, 6, 3)}


def build(family, kind):
    parts = Parts(norm=KINDS[kind], residual=HighwayResidual) if family is not Transformer else None
    return family(3, 2, parts, depth=2, width=8).double()


def settle(model):
    """Let the power iteration converge."""
    for _ in range(300):
        for module in model.modules():
            if parametrize.is_parametrized(module):
                for name in module.parametrizations:
                    getattr(module, name)
    return model.eval()


@pytest.fixture(params=SHAPES)
def family(request):
    return request.param


def test_weight_norm_keeps_the_outputs_and_names_size_and_direction(family):
    model = build(family, "weight")
    x = torch.randn(SHAPES[family], dtype=torch.float64)
    plain = {name: p.detach().clone() for name, p in model.named_parameters() if p.dim() >= 2}
    expected = model(x)
    assert reparametrize_(model, "weight") is model
    torch.testing.assert_close(model(x), expected, **EXACT)
    for name, weight in plain.items():
        owner, _, attribute = name.rpartition(".")
        chain = getattr(model.get_submodule(owner).parametrizations, attribute)
        size, direction = chain.original0, chain.original1
        rows = weight.flatten(1)
        torch.testing.assert_close(size.flatten(), rows.square().sum(1).sqrt(), **EXACT)
        torch.testing.assert_close(direction, weight)
        # Salimans and Kingma 2016, eq. 2: W = g V / ‖V‖, so that only the direction of V matters.
        direction.data.mul_(3.0)
        torch.testing.assert_close(getattr(model.get_submodule(owner), attribute), weight, **EXACT)


def test_spectral_norm_divides_by_the_largest_singular_value(family):
    model = build(family, "spectral")
    plain = {name: p.detach().clone() for name, p in model.named_parameters() if p.dim() >= 2}
    settle(reparametrize_(model, "spectral"))
    for name, weight in plain.items():
        expected = weight / torch.linalg.svdvals(weight.flatten(1))[0]
        owner, _, attribute = name.rpartition(".")
        found = getattr(model.get_submodule(owner), attribute)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_of_training_moves_the_weights(family, kind):
    model = reparametrize_(build(family, kind), kind)
    x = torch.randn(SHAPES[family], dtype=torch.float64)
    before = {id(m): {n: getattr(m, n).detach().clone() for n in m.parametrizations} for m in parametrized(model)}
    losses = []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(3):
        loss = (model(x) - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[2] < losses[1] < losses[0]
    assert len(before) > 0
    for module in parametrized(model):
        for name, weight in before[id(module)].items():
            assert not torch.equal(getattr(module, name), weight)


def parametrized(model):
    return [module for module in model.modules() if parametrize.is_parametrized(module)]


@pytest.mark.parametrize("kind", KINDS)
def test_state_dict_deepcopy_and_dtype(family, kind):
    first, second = (reparametrize_(build(family, kind), kind) for _ in range(2))
    x = torch.randn(SHAPES[family], dtype=torch.float64)
    first(x).sum().backward()  # copying must work after a backward pass
    second.load_state_dict(first.state_dict())
    first.eval()
    second.eval()
    assert torch.equal(first(x), second(x))
    copied = copy.deepcopy(first)
    assert torch.equal(copied(x), first(x))
    for parameter in copied.parameters():
        parameter.data.mul_(0.5)
    assert not torch.equal(copied(x), first(x))
    assert torch.equal(second(x), first(x))
    single = copy.deepcopy(first).float()
    torch.testing.assert_close(single(x.float()), first(x).float(), rtol=1e-4, atol=1e-4)
    assert {p.dtype for p in single.parameters()} == {torch.float32}


@pytest.mark.parametrize("family", [RNN, LSTM, GRU], ids=lambda family: family.__name__)
def test_recurrent_layers_compute_their_weights_once_a_pass(family, monkeypatch):
    model = reparametrize_(build(family, "weight"), "weight")
    calls = []
    chain = model.rnn.parametrizations["weight_hh_l0"]
    chain.register_forward_hook(lambda *_: calls.append(1))
    x = torch.randn(5, 6, 3, dtype=torch.float64)
    model(x)
    assert len(calls) == 1
    model.rnn.parametrizations["weight_hh_l0"].original0.data.mul_(2.0)
    changed = model(x)
    assert len(calls) == 2  # computed anew in the next pass
    chain.original0.data.mul_(0.5)
    assert not torch.equal(model(x), changed)


def test_the_gradient_of_a_recurrent_weight_goes_through_the_norm():
    """Salimans and Kingma 2016, eq. 3: ∂L/∂g = ∇_W L · V / ‖V‖, ∂L/∂V = g/‖V‖ ∇_W L − g/‖V‖² ∂L/∂g V."""
    torch.manual_seed(0)
    plain, normed = build(RNN, "weight"), build(RNN, "weight")
    normed.load_state_dict(plain.state_dict())
    reparametrize_(normed, "weight")
    x = torch.randn(5, 6, 3, dtype=torch.float64)
    for model in (plain, normed):
        model(x).square().sum().backward()
    v = plain.rnn.weight_hh_l0.detach()
    gradient, size = plain.rnn.weight_hh_l0.grad, v.norm(dim=1, keepdim=True)
    g_gradient = (gradient * v / size).sum(1, keepdim=True)
    chain = normed.rnn.parametrizations["weight_hh_l0"]
    torch.testing.assert_close(chain.original0.grad, g_gradient, **EXACT)
    torch.testing.assert_close(chain.original1.grad, gradient - g_gradient * v / size, **EXACT)  # g = ‖V‖ here


def test_norms_embeddings_and_shared_weights_stay_plain():
    model = nn.ModuleDict(
        {"in": nn.Embedding(7, 4), "norm": nn.LayerNorm((3, 4)), "mid": nn.Linear(4, 4), "out": nn.Linear(4, 7)}
    )
    model["again"] = nn.Linear(4, 4)
    model["again"].weight = model["mid"].weight
    model["alone"] = nn.Linear(4, 4)
    model["out"].weight = model["in"].weight
    reparametrize_(model, "weight")
    assert [name for name, m in model.items() if parametrize.is_parametrized(m)] == ["alone"]


def test_twice_is_once():
    model = reparametrize_(reparametrize_(nn.Linear(3, 4), "weight"), "weight")
    assert len(model.parametrizations.weight) == 1


def test_outputs_of_transposed_convolutions_are_on_axis_one():
    for kind in KINDS:
        layer = nn.ConvTranspose2d(3, 5, 2).double()
        weight = layer.weight.detach().clone()
        settle(reparametrize_(layer, kind))
        rows = weight.transpose(0, 1).flatten(1)
        if kind == "weight":
            torch.testing.assert_close(layer.parametrizations.weight.original0.flatten(), rows.norm(dim=1))
        else:
            torch.testing.assert_close(layer.weight, weight / torch.linalg.svdvals(rows)[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("kind", "shape"), [("weight", (1, 1)), ("spectral", (1, 1)), ("spectral", (1, 5))])
def test_one_element_and_one_row(kind, shape):
    layer = reparametrize_(nn.Linear(shape[1], shape[0]), kind)
    x = torch.randn(3, shape[1])
    layer(x).sum().backward()
    assert all(p.grad.isfinite().all() for p in layer.parameters())
    if kind == "spectral":
        assert layer.weight.detach().norm() == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_zero_weight_is_refused_before_anything_changes(kind):
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    nn.init.zeros_(model[1].weight)
    with pytest.raises(RequestError, match="zero") as caught:
        reparametrize_(model, kind)
    assert caught.value.key == "norm"
    assert not parametrized(model)


def test_a_zero_row_is_refused_by_weight_norm_alone():
    layer = nn.Linear(3, 4)
    layer.weight.data[2] = 0
    with pytest.raises(RequestError, match="zero"):
        reparametrize_(layer, "weight")
    assert parametrize.is_parametrized(reparametrize_(layer, "spectral"))


@pytest.mark.parametrize("layer", [nn.RNN, nn.LSTM, nn.GRU])
def test_fused_recurrent_layers_are_refused(layer):
    with pytest.raises(RequestError, match="fused") as caught:
        reparametrize_(nn.Sequential(nn.Linear(3, 3), layer(3, 4)), "weight")
    assert caught.value.command == "model.implementation=unrolled"


def test_which_norms_act_on_weights():
    kinds = {norm: find_reparametrization(norm(8)) for norm in (NoNorm, BatchNorm, LayerNorm, WeightNorm, SpectralNorm)}
    assert kinds == {NoNorm: None, BatchNorm: None, LayerNorm: None, WeightNorm: "weight", SpectralNorm: "spectral"}


# --- how they are named in measurements --------------------------------------------------------------------------


@pytest.mark.parametrize("make", [MLP, CNN, ResNet, DenseNet1d, Transformer, RNN, LSTM, GRU])
def test_layers_of_a_parametrized_network_are_named_in_forward_order(make):
    parts = {DenseNet1d: Parts(nn.ReLU, WeightNorm, DenseResidual)}.get(make, Parts(norm=WeightNorm))
    x = {MLP: (4, 3), CNN: (4, 3, 8, 8), ResNet: (4, 3, 8, 8)}.get(make, (4, 6, 3))
    model = make(3, 2, parts, depth=3, width=8)
    plain, normed = read_layers(model, x), read_layers(reparametrize_(model, "weight"), x)
    assert len(normed) == len(model_weights(plain)) + len(plain)  # a g for each V
    owners = [list(dict.fromkeys(map(owner_of, layers))) for layers in (plain, normed)]
    if make not in (RNN, LSTM, GRU):  # one module holds all weights there
        assert owners[0] == owners[1]
    assert normed == sorted(normed)
    assert owner_of(normed[-1]) == "head"


def model_weights(layers):
    return [name for name in layers if ".weight" in name]


def owner_of(layer):
    """`layers.0.linear` of `L01.layers.0.linear.parametrizations.weight.original0` and `L01.layers.0.linear.bias`."""
    return layer.split(".", 1)[1].split(".parametrizations")[0].removesuffix(".bias").removesuffix(".weight")


def read_layers(model, shape):
    watch = st.Watch(model)
    model(torch.randn(shape)).sum().backward()
    return [row.layer for row in watch.step().layers]


def test_parametrizations_of_others_pass():
    layer = parametrizations.orthogonal(nn.Linear(4, 4))
    reparametrize_(layer, "weight")
    assert len(layer.parametrizations.weight) == 1
