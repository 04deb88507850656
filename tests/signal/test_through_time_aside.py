"""Test the gradient through time of training, compiled, checkpointed and extended models, which it leaves unchanged."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.utils.checkpoint import checkpoint

from stabletrain.network import GRU
from stabletrain.signal.through_time import gradient_through_time
from stabletrain.torch_tools.module_hooks import is_hooked
from tests.helpers.left_hooks import remove_left_hooks

STEPS, BATCH, INPUTS, WIDTH = 5, 2, 3, 4


def weigh(outputs):
    """A loss that weights every output differently."""
    y = outputs[0] if isinstance(outputs, tuple) else outputs
    return (y * torch.linspace(0.5, 1.5, y.numel(), dtype=y.dtype).reshape(y.shape)).square().sum()


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(INPUTS)
        self.rnn = nn.GRU(INPUTS, WIDTH, 2, batch_first=True, dropout=0.5)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(WIDTH, 2)

    def forward(self, x):
        x = self.norm(x.transpose(1, 2)).transpose(1, 2)
        return self.head(self.dropout(self.rnn(x)[0][:, -1]))


def test_nothing_is_left_behind():
    model = Network().train()
    model.head.eval()
    x = torch.randn(BATCH, STEPS, INPUTS)
    before, state, attributes = copy.deepcopy(model.state_dict()), torch.get_rng_state(), set(model.rnn.__dict__)
    with torch.no_grad():
        found = gradient_through_time(model, x, weigh)
    assert [x.layer for x in found] == ["rnn.l0", "rnn.l1"]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert [p.grad for p in model.parameters()] == [None] * len(list(model.parameters()))
    assert (model.training, model.rnn.training, model.head.training) == (True, True, False)
    assert set(model.rnn.__dict__) == attributes
    assert not any(module._forward_hooks or is_hooked(module) for module in model.modules())


def test_gradients_that_are_there_stay():
    model, x = Network(), torch.randn(BATCH, STEPS, INPUTS, requires_grad=True)
    weigh(model(x)).backward()
    before = [p.grad.clone() for p in (*model.parameters(), x)]
    gradient_through_time(model, x, weigh)
    assert all(torch.equal(p.grad, g) for p, g in zip((*model.parameters(), x), before, strict=True))


def test_a_model_that_fails_is_left_as_it_was():
    model = Network()
    attributes = set(model.rnn.__dict__)
    with pytest.raises(RuntimeError):
        gradient_through_time(model, torch.randn(BATCH, STEPS, INPUTS + 1), weigh)
    assert (model.training, set(model.rnn.__dict__)) == (True, attributes)


def replayed_outputs(model, arguments):
    """Return the first output of a model whose recurrent layers are replayed."""
    seen = []
    gradient_through_time(model, arguments, lambda y: seen.append(y[0]) or y[0].sum())
    return seen[0].detach()


class Extended(nn.LSTM):
    """A user-defined subclass that returns only the outputs."""

    def forward(self, input):
        return super().forward(input)[0]


def test_a_layer_that_extends_the_forward_pass_is_followed():
    model, x = Extended(INPUTS, WIDTH), torch.randn(STEPS, BATCH, INPUTS)
    plain = nn.LSTM(INPUTS, WIDTH)
    plain.load_state_dict(model.state_dict())
    (found,), (expected,) = (gradient_through_time(m, x, weigh) for m in (model, plain))
    assert (found.layer, type(model)) == ("l0", Extended)
    assert found.norms == pytest.approx(expected.norms, rel=1e-12)
    with pytest.raises(RuntimeError):
        gradient_through_time(model, x[..., 1:], weigh)
    assert type(model) is Extended


@pytest.fixture(autouse=True)
def _without_hooks_of_earlier_tests():
    remove_left_hooks()


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("family", [GRU, nn.GRUCell])
def test_a_compiled_model_is_followed_as_it_is_written(backend, family):
    class Loop(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = nn.GRUCell(INPUTS, WIDTH)

        def forward(self, x):
            hidden = None
            for features in x.unbind(1):
                hidden = self.cell(features, hidden)
            return hidden

    model = Loop() if family is nn.GRUCell else GRU(INPUTS, 2, width=WIDTH, implementation="unrolled")
    x = torch.randn(BATCH, STEPS, INPUTS)
    (expected,) = gradient_through_time(model, x, weigh)
    compiled = torch.compile(model, backend=backend)
    before = compiled(x)
    (found,) = gradient_through_time(compiled, x, weigh)
    assert found.norms.tolist() == expected.norms.tolist()
    assert torch.equal(compiled(x), before)


def test_a_checkpointed_layer_is_followed_once():
    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.GRU(INPUTS, WIDTH)

        def forward(self, x):
            return checkpoint(self.rnn, x, use_reentrant=False)

    model, x = Checkpointed(), torch.randn(STEPS, BATCH, INPUTS)
    (found,), (expected,) = (gradient_through_time(m, x, weigh) for m in (model, model.rnn))
    assert found.norms.tolist() == expected.norms.tolist()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_caller_without_gradients_gets_the_same(mode):
    model = nn.LSTM(INPUTS, WIDTH)
    x, state = torch.randn(STEPS, BATCH, INPUTS), torch.randn(1, BATCH, WIDTH)
    (expected,) = gradient_through_time(model, (x, (state, state)), weigh)
    with mode():
        arguments = (x.clone(), [state.clone(), state.clone()])  # the kernel also accepts a list of states
        (found,) = gradient_through_time(model, arguments, weigh)
        assert not torch.is_grad_enabled()
    assert found.norms.tolist() == expected.norms.tolist()


def test_a_state_that_the_model_overwrites():
    class Damped(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = nn.RNNCell(INPUTS, WIDTH, bias=False)

        def forward(self, x):
            hidden = None
            for features in x:
                hidden = self.cell(features, hidden).mul_(0.5)
            return hidden

    model, x = Damped(), torch.randn(STEPS, BATCH, INPUTS)
    trained = gradient_through_time(model, x, torch.sum)[0].norms
    assert trained[-1] == pytest.approx(0.5 * math.sqrt(BATCH * WIDTH))  # the halving lies between h and the loss
    assert gradient_through_time(model.requires_grad_(False), x, torch.sum)[0].norms == pytest.approx(trained)


def test_weights_that_are_normalized_by_iteration_are_not_iterated():
    model = spectral_norm(nn.GRU(INPUTS, WIDTH), "weight_hh_l0").train()
    before, x = copy.deepcopy(model.state_dict()), torch.randn(STEPS, BATCH, INPUTS)
    outputs = replayed_outputs(model, x)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    torch.testing.assert_close(model.eval()(x)[0].detach(), outputs)
    _ = model.train().weight_hh_l0  # negative control: reading it in training mode iterates
    assert any(not torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_model_that_does_more_on_eval_is_not_asked_to():
    class Merging(nn.Linear):
        def train(self, mode=True):
            if not mode:
                nn.init.zeros_(self.weight)
            return super().train(mode)

    model = nn.Sequential(Merging(INPUTS, INPUTS), nn.GRU(INPUTS, WIDTH)).train()
    before = copy.deepcopy(model.state_dict())
    gradient_through_time(model, torch.randn(STEPS, BATCH, INPUTS), weigh)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not torch.equal(model.eval().state_dict()["0.weight"], before["0.weight"])


def test_random_numbers_go_on_where_they_were():
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.GRU(INPUTS, WIDTH)

        def forward(self, x):
            return self.rnn(x + torch.randn_like(x))

    model, x, state = Noisy(), torch.randn(STEPS, BATCH, INPUTS), torch.get_rng_state()
    gradient_through_time(model, x, weigh)
    assert torch.equal(torch.get_rng_state(), state)
    model(x)
    assert not torch.equal(torch.get_rng_state(), state)
