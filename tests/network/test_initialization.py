import math
import re
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from stabletrain.errors import RequestError
from stabletrain.network import LSTM, Parts, initialize_, second_moment_gain
from stabletrain.network.initialization import INITIALIZATIONS, He, Identity, Normal, Orthogonal, Xavier
from stabletrain.network.initialization.base import find_rectifier_gain
from stabletrain.network.initialization.fill import compute_fans, fill_with_std_, identity_, orthogonal_
from stabletrain.network.meanfield.edge_of_chaos import find_critical
from stabletrain.network.normalization import LayerNorm

GATES = {nn.RNN: 1, nn.LSTM: 4, nn.GRU: 3, nn.RNNCell: 1, nn.LSTMCell: 4, nn.GRUCell: 3}
WIDTH, INPUTS = 64, 48


def split_gates(module):
    """The matrix of each gate, (H, inputs)."""
    for name, parameter in module.named_parameters():
        if name.startswith("weight"):
            for gate in parameter.detach().chunk(GATES[type(module)]):
                yield name, gate


def check_moments(weight, std, distribution):
    # Six standard errors: of a mean std/√n; of a standard deviation at most std/√(2n).
    error = 6 * std / math.sqrt(weight.numel())
    assert abs(weight.mean()) < error
    assert abs(weight.std() - std) < error
    if distribution == "uniform":
        assert weight.abs().max() <= math.sqrt(3) * std
        assert weight.abs().max() > 0.98 * math.sqrt(3) * std
    else:
        assert weight.abs().max() > 2.5 * std


RULES = [
    ("normal", None, lambda i, o: 0.01, "normal"),
    ("xavier", None, lambda i, o: math.sqrt(2 / (i + o)), "uniform"),
    ("xavier", nn.Tanh(), lambda i, o: math.sqrt(2 / (i + o)), "uniform"),
    (Xavier("normal", gain=3.0), None, lambda i, o: 3 * math.sqrt(2 / (i + o)), "normal"),
    ("he", None, lambda i, o: math.sqrt(2 / i), "normal"),
    ("he", nn.ReLU(), lambda i, o: math.sqrt(2 / i), "normal"),
    ("he", nn.LeakyReLU(0.5), lambda i, o: math.sqrt(1.6 / i), "normal"),
    (He("uniform", "fan_out"), None, lambda i, o: math.sqrt(2 / o), "uniform"),
    ("lecun", None, lambda i, o: math.sqrt(1 / i), "normal"),
]


@pytest.mark.parametrize(("init", "activation", "std", "distribution"), RULES)
def test_moments_of_feed_forward_weights(init, activation, std, distribution):
    layers = [nn.Linear(300, 200), nn.Conv1d(32, 64, 5), nn.Conv2d(16, 32, 3), nn.ConvTranspose2d(32, 16, 3)]
    fans = [(300, 200), (160, 320), (144, 288), (288, 144)]
    model = initialize_(nn.Sequential(*layers), init, activation=activation)
    for layer, (fan_in, fan_out) in zip(model, fans, strict=True):
        check_moments(layer.weight, std(fan_in, fan_out), distribution)
        assert layer.bias.eq(0).all()


@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize(("init", "activation", "std", "distribution"), RULES)
def test_moments_of_each_gate(kind, init, activation, std, distribution):
    module = initialize_(kind(INPUTS, WIDTH), init, activation=activation)
    for name, gate in split_gates(module):
        assert gate.shape == (WIDTH, INPUTS if "ih" in name else WIDTH)
        check_moments(gate, std(gate.size(1), WIDTH), distribution)


@pytest.mark.parametrize("kind", GATES)
def test_orthogonal_in_each_gate(kind):
    module = initialize_(kind(INPUTS, WIDTH), "orthogonal", activation=nn.Tanh())
    for name, gate in split_gates(module):
        gain = 1.593 if GATES[kind] == 1 and "ih" in name else 1.0
        singular = torch.linalg.svdvals(gate)
        torch.testing.assert_close(singular, torch.full_like(singular, gain), rtol=1e-3, atol=0)


def test_orthogonal_takes_the_gain_of_the_activation_or_its_own():
    for rule, activation, gain in [
        (Orthogonal(), None, 1.0),
        (Orthogonal(), nn.ReLU(), math.sqrt(2)),
        (Orthogonal(gain=0.5), nn.ReLU(), 0.5),
    ]:
        linear = initialize_(nn.Linear(8, 20), rule, activation=activation)
        torch.testing.assert_close(linear.weight.T @ linear.weight, gain**2 * torch.eye(8))
        conv = initialize_(nn.Conv2d(4, 6, 3), rule, activation=activation)
        flat = conv.weight.flatten(1)
        torch.testing.assert_close(flat @ flat.T, gain**2 * torch.eye(6))


def test_he_keeps_the_second_moment_through_ten_tanh_layers():
    layers = [layer for _ in range(10) for layer in (nn.Tanh(), nn.Linear(1000, 1000, bias=False))]
    model = initialize_(nn.Sequential(*layers), "he", activation=nn.Tanh())
    assert float(model(torch.randn(64, 1000)).detach().square().mean()) == pytest.approx(1.0, rel=0.05)


@pytest.mark.parametrize("kind", GATES)
def test_identity_is_the_irnn(kind):
    module = initialize_(kind(INPUTS, WIDTH), "identity")
    for name, gate in split_gates(module):
        if "hh" in name:
            assert torch.equal(gate, torch.eye(WIDTH))
        else:
            check_moments(gate, 0.001, "normal")


def test_identity_passes_what_it_can():
    x = torch.randn(2, 3, 9)
    conv = initialize_(nn.Conv1d(3, 5, 5, padding=2), "identity")
    assert torch.equal(conv(x)[:, :3], x)
    assert conv(x)[:, 3:].eq(0).all()
    linear = initialize_(nn.Linear(3, 2), Identity(gain=2.0))
    assert torch.equal(linear(x[:, :, 0]), 2 * x[:, :2, 0])


@pytest.mark.parametrize("init", ["normal", "orthogonal", "identity"])
def test_biases_are_zero_but_for_the_forget_gate(init):
    for module in (
        nn.LSTM(3, 4, 2, bidirectional=True),
        nn.LSTMCell(3, 4),
        LSTM(3, 2, Parts(norm=LayerNorm)).rnn,
    ):
        initialize_(module, init)
        width = module.hidden_size
        for name, bias in module.named_parameters():
            if name.startswith("bias_ih"):
                assert bias[width : 2 * width].eq(1).all()
                assert bias.sum() == width
            elif name.startswith("bias_hh"):
                assert bias.eq(0).all()
    for module in (nn.GRU(3, 4), nn.RNN(3, 4), nn.Linear(3, 4), nn.MultiheadAttention(4, 2)):
        initialize_(module, init)
        assert all(p.eq(0).all() for name, p in module.named_parameters() if "bias" in name)


def test_leaves_alone_what_is_no_weight():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3, 4))
            self.position = nn.Parameter(torch.ones(3, 4))
            self.weight_scale = nn.Parameter(torch.ones(()))

    norms = [nn.BatchNorm2d(3), nn.LayerNorm((3, 4)), nn.GroupNorm(1, 4), nn.RMSNorm((3, 4)), nn.PReLU(4)]
    model = nn.Sequential(*norms, nn.Embedding(5, 4), Own())
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    initialize_(model, "normal")
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {"6.weight"}


def test_attention_is_filled_projection_by_projection():
    attention = initialize_(nn.MultiheadAttention(16, 4), "orthogonal")
    for matrix in attention.in_proj_weight.chunk(3):
        torch.testing.assert_close(matrix @ matrix.T, torch.eye(16))


def test_shared_weights_are_filled_once_and_tied_embeddings_not_at_all():
    model = nn.Sequential(nn.Embedding(6, 4), nn.Linear(4, 6, bias=False), nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    model[3].weight = model[2].weight
    before = model[0].weight.detach().clone()
    torch.manual_seed(1)
    initialize_(model, Normal(0.5))
    assert torch.equal(model[1].weight, before)
    torch.manual_seed(1)
    assert torch.equal(model[3].weight, torch.empty(4, 4).normal_(0, 0.5))


def test_default_changes_nothing():
    model = nn.LSTM(3, 4)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    initialize_(model, "default")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("init", ["normal", "xavier", "he", "lecun", "orthogonal", "identity"])
def test_keeps_the_dtype(dtype, init):
    model = initialize_(nn.Linear(8, 8).to(dtype), init)
    assert model.weight.dtype == dtype
    assert model.weight.isfinite().all()
    assert model.weight.ne(0).any()


def test_corners():
    assert compute_fans(torch.empty(4, 3, 2, 2)) == (12, 16)
    assert identity_(torch.empty(1, 1)).item() == 1
    assert abs(orthogonal_(torch.empty(1, 1)).item()) == pytest.approx(1)
    assert fill_with_std_(torch.ones(2, 2), 0.0, "uniform").eq(0).all()
    with torch.no_grad():
        initialize_(nn.Linear(1, 1), "xavier")
    assert find_rectifier_gain(nn.Tanh()) is None
    assert find_rectifier_gain(torch.relu) == math.sqrt(2)
    assert find_rectifier_gain(nn.PReLU(init=1.0)) == pytest.approx(1.0)


def test_refuses_what_it_does_not_know():
    with pytest.raises(RequestError) as caught:
        initialize_(nn.Linear(2, 2), "orthogonall")
    assert caught.value.closest == "orthogonal"
    for make in (lambda: Normal(-1.0), lambda: Xavier("gaussian"), lambda: He(mode="in"), lambda: Orthogonal(0.0)):
        with pytest.raises(RequestError):
            make()
    with pytest.raises(RequestError, match="lazy"):
        initialize_(nn.LazyLinear(3), "he")


DOCS = Path(__file__).parents[2] / "docs" / "initialization.md"


def test_every_option_has_its_heading_in_the_docs():
    headings = {line.removeprefix("## ") for line in DOCS.read_text().splitlines() if line.startswith("## ")}
    assert headings >= set(INITIALIZATIONS)


def test_the_tables_of_the_docs_are_those_of_the_solver():
    conf = DOCS.parents[1] / "conf" / "activation"
    rows = re.findall(r"^\| (\w+) \| ([\d.]+|none) \| ([\d.]+|none) \| ?(.*?) ?\|$", DOCS.read_text(), re.MULTILINE)
    assert {row[0] for row in rows} >= {path.stem for path in conf.glob("*.yaml")}
    gains = dict(re.findall(r"\| ([a-z]+) \| (\d\.\d{3}) ", DOCS.read_text()))
    for name, weights, biases, variance in rows:
        values = yaml.safe_load((conf / f"{name}.yaml").read_text())
        activation = getattr(nn, values.pop("_target_").rsplit(".", 1)[1])(**values)
        if name in gains:
            assert second_moment_gain(activation) == pytest.approx(float(gains[name]), abs=6e-4)
        if weights == "none":
            with pytest.raises(RequestError):
                find_critical(activation)
            continue
        found = find_critical(activation)
        assert (found.weight_variance, found.bias_variance) == pytest.approx((float(weights), float(biases)), abs=1e-6)
        assert ("any" if found.variance is None else f"{found.variance:.3f}".replace("0.000", "0")) == variance
