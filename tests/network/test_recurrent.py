import copy
import functools
import pickle

import pytest
import torch
from torch import nn

from stabletrain.errors import RequestError
from stabletrain.network import GRU, LSTM, RNN, Parts
from stabletrain.network.models.unrolled import Unrolled
from stabletrain.network.normalization import BatchNorm, LayerNorm, NoNorm, RMSNorm, SpectralNorm
from stabletrain.network.normalization.step_norm import StepBatchNorm
from stabletrain.network.residual import AddResidual
from stabletrain.network.surgery.reparametrization import reparametrize_

FAMILIES = [RNN, LSTM, GRU]
EXACT = {"rtol": 1e-11, "atol": 1e-12}


def make_pair(family, parts=None, **options):
    fused = family(3, 2, parts, width=5, implementation="fused", **options).double()
    unrolled = family(3, 2, parts, width=5, implementation="unrolled", **options).double()
    unrolled.load_state_dict(fused.state_dict())
    fused.load_state_dict(unrolled.state_dict())
    return fused, unrolled


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize(("family", "activation"), [(RNN, nn.Tanh), (RNN, nn.ReLU), (LSTM, nn.Tanh), (GRU, nn.Tanh)])
def test_fused_and_unrolled_agree(family, activation, depth, bidirectional):
    fused, unrolled = make_pair(family, Parts(activation), depth=depth, bidirectional=bidirectional)
    x = torch.randn(4, 6, 3, dtype=torch.float64, requires_grad=True)
    results = []
    for model in (fused, unrolled):
        outputs, final = model.rnn(x)
        finals = final if isinstance(final, tuple) else (final,)
        scores = model(x)
        loss = scores.square().sum() + outputs.sin().sum() + sum(f.cos().sum() for f in finals)
        gradients = torch.autograd.grad(loss, [x, *model.parameters()])
        results.append([scores, outputs, *finals, *gradients])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, **EXACT)


@pytest.mark.parametrize("family", FAMILIES)
def test_fused_and_unrolled_agree_from_an_initial_state(family):
    fused, unrolled = make_pair(family, depth=2)
    x = torch.randn(4, 6, 3, dtype=torch.float64)
    h = torch.randn(2, 4, 5, dtype=torch.float64)
    hx = (h, h.cos()) if family is LSTM else h
    torch.testing.assert_close(fused.rnn(x, hx), unrolled.rnn(x, hx), **EXACT)


@pytest.mark.parametrize("family", FAMILIES)
def test_head_reads_the_final_state_of_both_directions(family):
    model = family(3, 2, depth=2, width=5, bidirectional=True)
    x = torch.randn(4, 6, 3)
    final = model.rnn(x)[1]
    h = final[0] if family is LSTM else final
    torch.testing.assert_close(model(x), model.head(torch.cat([h[-2], h[-1]], dim=1)))


@pytest.mark.parametrize("family", FAMILIES)
def test_same_seed_same_weights_in_both_forms(family):
    states = []
    for implementation in ("fused", "unrolled"):
        torch.manual_seed(1)
        states.append(family(3, 2, depth=2, implementation=implementation).state_dict())
    assert list(states[0]) == list(states[1])
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert "rnn.weight_hh_l1" in states[0]


def normalize(x, eps=1e-5):
    return (x - x.mean(1, keepdim=True)) / (x.var(1, correction=0, keepdim=True) + eps).sqrt()


def test_layer_norm_lstm_agrees_with_the_equations():
    model = LSTM(3, 2, Parts(norm=LayerNorm), width=4).double()
    for norm in model.rnn.norms.values():  # random gain and shift, so that they affect the output
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    rnn, norms, x = model.rnn, model.rnn.norms, torch.randn(5, 6, 3, dtype=torch.float64)
    h = c = torch.zeros(5, 4, dtype=torch.float64)
    for t in range(6):
        a = normalize(h @ rnn.weight_hh_l0.T) * norms["hidden_l0"].weight + norms["hidden_l0"].bias
        b = normalize(x[:, t] @ rnn.weight_ih_l0.T) * norms["input_l0"].weight + norms["input_l0"].bias
        s = a + b + rnn.bias_ih_l0 + rnn.bias_hh_l0
        i, f, g, o = s[:, :4].sigmoid(), s[:, 4:8].sigmoid(), s[:, 8:12].tanh(), s[:, 12:].sigmoid()
        c = f * c + i * g
        h = o * (normalize(c) * norms["cell_l0"].weight + norms["cell_l0"].bias).tanh()
    torch.testing.assert_close(model(x), h @ model.head.weight.T + model.head.bias, **EXACT)


def test_layer_norm_gru_agrees_with_the_equations():
    model = GRU(3, 2, Parts(norm=LayerNorm), width=4).double()
    rnn, x = model.rnn, torch.randn(5, 6, 3, dtype=torch.float64)
    h = torch.zeros(5, 4, dtype=torch.float64)
    for t in range(6):
        a, b = x[:, t] @ rnn.weight_ih_l0.T, h @ rnn.weight_hh_l0.T
        gates = normalize(a[:, :8]) + normalize(b[:, :8]) + (rnn.bias_ih_l0 + rnn.bias_hh_l0)[:8]
        r, z = gates[:, :4].sigmoid(), gates[:, 4:].sigmoid()
        n = normalize(a[:, 8:]) + rnn.bias_ih_l0[8:] + r * (normalize(b[:, 8:]) + rnn.bias_hh_l0[8:])
        h = (1 - z) * n.tanh() + z * h
    torch.testing.assert_close(model(x), h @ model.head.weight.T + model.head.bias, **EXACT)


def test_rms_norm_rnn_agrees_with_the_equations():
    model = RNN(3, 2, Parts(nn.ELU, RMSNorm), width=4).double()
    rnn, x = model.rnn, torch.randn(5, 6, 3, dtype=torch.float64)
    h = torch.zeros(5, 4, dtype=torch.float64)
    for t in range(6):
        a = x[:, t] @ rnn.weight_ih_l0.T + h @ rnn.weight_hh_l0.T
        a = a / (a.square().mean(1, keepdim=True) + 1e-5).sqrt() + rnn.bias_ih_l0 + rnn.bias_hh_l0
        h = torch.where(a > 0, a, a.exp() - 1)
    torch.testing.assert_close(model(x), h @ model.head.weight.T + model.head.bias, **EXACT)


def test_batch_norm_keeps_statistics_for_each_step():
    model = RNN(3, 2, Parts(norm=functools.partial(BatchNorm, momentum=1.0, max_steps=4)), width=4).double()
    norm = model.rnn.norms["sum_l0"]
    assert isinstance(norm, StepBatchNorm)
    assert torch.equal(norm.weight, torch.full((4,), 0.1).double())
    x = torch.randn(8, 3, 3, dtype=torch.float64)
    model(x)
    h = torch.zeros(8, 4, dtype=torch.float64)
    for t in range(3):
        a = x[:, t] @ model.rnn.weight_ih_l0.T + h @ model.rnn.weight_hh_l0.T
        torch.testing.assert_close(norm.running_mean[t], a.mean(0), **EXACT)
        torch.testing.assert_close(norm.running_var[t], a.var(0), **EXACT)
        a = norm.weight * (a - a.mean(0)) / (a.var(0, correction=0) + 1e-5).sqrt()
        h = (a + model.rnn.bias_ih_l0 + model.rnn.bias_hh_l0).tanh()
    assert norm.num_batches_tracked.tolist() == [1, 1, 1, 0]
    assert norm.running_mean[3].eq(0).all()


def test_batch_norm_takes_the_last_step_known_for_longer_sequences():
    norm = StepBatchNorm(2, momentum=1.0, max_steps=5)
    for step in range(3):
        norm(torch.randn(6, 2), step)
    norm.eval()
    x = torch.randn(4, 2)
    assert torch.equal(norm(x, 4), norm(x, 2))
    assert torch.equal(norm(x, 99), norm(x, 2))
    assert not torch.equal(norm(x, 1), norm(x, 2))
    norm.train()
    norm(x, 99)
    assert norm.num_batches_tracked.tolist() == [1, 1, 1, 0, 1]


@pytest.mark.parametrize("family", FAMILIES)
def test_residuals_go_around_all_layers_but_the_first(family):
    model = family(3, 2, Parts(residual=AddResidual), depth=3, width=5, bidirectional=True).double()
    for layer in (1, 2):  # branches that output 0
        for name, parameter in model.rnn.named_parameters():
            if f"_l{layer}" in name:
                nn.init.zeros_(parameter)
    one = family(3, 2, depth=1, width=5, bidirectional=True).double()
    one.load_state_dict(model.state_dict(), strict=False)
    x = torch.randn(4, 6, 3, dtype=torch.float64)
    torch.testing.assert_close(model(x), one(x), **EXACT)


@pytest.mark.parametrize("family", FAMILIES)
def test_dropout_acts_at_depth_one_and_between_layers_in_both_forms(family):
    for implementation in ("fused", "unrolled"):
        for depth in (1, 2):
            model = family(3, 2, depth=depth, dropout=0.5, implementation=implementation)
            x = torch.randn(4, 6, 3)
            assert not torch.equal(model(x), model(x))
            assert not torch.equal(model.rnn(x)[0], model.rnn(x)[0]) or depth == 1
            model.eval()
            assert torch.equal(model(x), model(x))


def test_auto_is_fused_where_it_can():
    assert type(RNN(3, 2).rnn) is nn.RNN
    assert RNN(3, 2, Parts(nn.ReLU)).rnn.nonlinearity == "relu"
    assert type(LSTM(3, 2).rnn) is nn.LSTM
    assert type(GRU(3, 2, Parts(residual=AddResidual)).rnn) is nn.GRU  # no residual connection at depth 1
    for model in (RNN(3, 2, Parts(nn.ELU)), LSTM(3, 2, Parts(nn.ReLU)), GRU(3, 2, Parts(norm=LayerNorm))):
        assert isinstance(model.rnn, Unrolled)
        assert isinstance(model.rnn, nn.RNNBase)


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        (Parts(nn.ReLU), "activation ReLU"),
        (Parts(norm=LayerNorm), "norm LayerNorm"),
        (Parts(residual=AddResidual), "residual AddResidual"),
    ],
)
def test_fused_refuses_what_it_cannot_compute(parts, reason):
    with pytest.raises(RequestError, match=reason) as caught:
        LSTM(3, 2, parts, depth=2, implementation="fused")
    assert caught.value.key == "implementation"


def test_refuses_what_is_out_of_range():
    for key, value in {"depth": 0, "width": 0, "dropout": 1.0, "implementation": "fsed"}.items():
        with pytest.raises(RequestError) as caught:
            GRU(3, 2, **{key: value})
        assert caught.value.key == key
    assert caught.value.closest == "fused"


@pytest.mark.parametrize("family", FAMILIES)
def test_one_step_one_unit_one_example(family):
    for implementation in ("fused", "unrolled"):
        assert family(1, 1, width=1, implementation=implementation)(torch.randn(1, 1, 1)).shape == (1, 1)


# --- one output per step -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("implementation", ["fused", "unrolled"])
@pytest.mark.parametrize("family", FAMILIES)
def test_one_output_per_step_reads_every_state(family, implementation):
    x = torch.randn(4, 6, 3, dtype=torch.float64)
    models = {
        output: family(3, 2, depth=2, width=5, output=output, implementation=implementation).double()
        for output in ("one", "each_step", "next_step")
    }
    for model in models.values():
        model.load_state_dict(models["one"].state_dict())
    states = models["one"].rnn(x)[0]
    expected = states @ models["one"].head.weight.T + models["one"].head.bias  # (batch, time, outputs)
    torch.testing.assert_close(models["each_step"](x), expected, **EXACT)
    assert torch.equal(models["next_step"](x), models["each_step"](x))
    torch.testing.assert_close(models["one"](x), expected[:, -1], **EXACT)


@pytest.mark.parametrize("norm", [NoNorm, LayerNorm, RMSNorm, BatchNorm])
@pytest.mark.parametrize("family", FAMILIES)
def test_predicting_the_next_step_sees_none_that_follows(family, norm):
    """Includes batch norm, which has separate statistics for each step."""
    model = family(3, 2, Parts(norm=norm), depth=2, width=4, output="next_step").double()
    x = torch.randn(5, 6, 3, dtype=torch.float64)
    changed = x.clone()
    changed[:, 3:] = 10.0 * torch.randn(5, 3, 3, dtype=torch.float64)
    torch.testing.assert_close(model(x)[:, :3], model(changed)[:, :3], rtol=0, atol=0)
    assert not torch.allclose(model(x)[:, 3:], model(changed)[:, 3:])
    inputs = x.clone().requires_grad_()
    for step in range(6):
        (gradient,) = torch.autograd.grad(model(inputs)[:, step].square().sum(), inputs)
        assert gradient[:, step + 1 :].eq(0).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_reading_backwards_sees_all_steps_and_may_not_predict_the_next(family):
    with pytest.raises(RequestError) as caught:
        family(3, 2, bidirectional=True, output="next_step")
    assert caught.value.key == "bidirectional"
    model = family(3, 2, bidirectional=True, output="each_step", width=4).double()
    x = torch.randn(2, 5, 3, dtype=torch.float64, requires_grad=True)
    y = model(x)
    assert y.shape == (2, 5, 2)
    (gradient,) = torch.autograd.grad(y[:, 2].square().sum(), x)
    assert gradient.ne(0).any(-1).all()


@pytest.mark.parametrize("output", ["one", "each_step", "next_step"])
@pytest.mark.parametrize("num_steps", [1, 2, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_short_sequences_reach_every_parameter(family, num_steps, output):
    for parts in (Parts(), Parts(nn.Mish, LayerNorm, AddResidual)):
        model = family(3, 2, parts, depth=2, width=4, output=output)
        model(torch.randn(2, num_steps, 3)).square().sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_unknown_outputs_are_refused(family):
    with pytest.raises(RequestError) as caught:
        family(3, 2, output="next")
    assert (caught.value.key, caught.value.closest) == ("output", "next_step")


# --- copies ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("implementation", ["fused", "unrolled"])
@pytest.mark.parametrize("family", FAMILIES)
def test_copies_and_conversions_compute_the_same(family, implementation):
    model = family(3, 2, depth=2, width=4, bidirectional=True, implementation=implementation)
    x = torch.randn(2, 5, 3)
    model(x).sum().backward()
    expected = model(x)
    assert torch.equal(copy.deepcopy(model)(x), expected)
    assert torch.equal(pickle.loads(pickle.dumps(model))(x), expected)
    changed = copy.deepcopy(model)
    for parameter in changed.parameters():
        nn.init.zeros_(parameter)
    assert changed(x).eq(0).all()
    assert torch.equal(model(x), expected)
    torch.testing.assert_close(copy.deepcopy(model).double()(x.double()).float(), expected, rtol=1e-5, atol=1e-6)


def test_copies_and_conversions_do_not_iterate_a_spectral_norm():
    model = reparametrize_(RNN(3, 2, Parts(norm=SpectralNorm), width=4), "spectral")
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    copied = copy.deepcopy(model).double().float()
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, buffers[name])
        assert torch.equal(copied.get_buffer(name), buffers[name])
    model(torch.randn(2, 5, 3))
    assert any(not torch.equal(buffer, buffers[name]) for name, buffer in model.named_buffers())
