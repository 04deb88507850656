"""A compiled module is measured without being changed, slowed down by recompiling, or broken."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter

import stabletrain as st
from stabletrain.signal.through_time import gradient_through_time
from stabletrain.torch_tools.module_hooks import is_hooked
from tests.helpers.left_hooks import remove_left_hooks

X = torch.randn(32, 6, generator=torch.Generator().manual_seed(0))
NUM_STEPS = 25


class Network(nn.Sequential):
    def forward(self, x):  # torch does not compile its own `nn.Sequential.forward` in place
        for layer in self:
            x = layer(x)
        return x


@pytest.fixture(autouse=True)
def _without_hooks_of_earlier_tests():
    remove_left_hooks()


def make():
    torch.manual_seed(0)
    return Network(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))


def train(way, watched, backend):
    """Return the model, the number of graphs, and the doctor if there is one."""
    torch._dynamo.reset()
    model = make()
    called = model
    if way == "in place":
        model.compile(backend=backend)
    else:
        called = torch.compile(model, backend=backend)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    doctor = st.Doctor(called if way == "wrapper" else model, optimizer=optimizer) if watched else None
    for _ in range(NUM_STEPS):
        loss = called(X).square().mean()
        optimizer.zero_grad()
        loss.backward()
        if doctor is not None:
            doctor.step(loss)
        optimizer.step()
    return model, doctor


WAYS = ("wrapper", "inner", "in place")


@pytest.mark.parametrize("way", WAYS)
def test_a_watched_module_stays_compiled_once_and_its_weights_the_same(way):
    counts = CompileCounter(), CompileCounter()
    alone, _ = train(way, False, counts[0])
    watched, doctor = train(way, True, counts[1])
    assert doctor is not None
    assert counts[0].frame_count == counts[1].frame_count > 0
    for name, weight in alone.state_dict().items():
        assert torch.equal(watched.state_dict()[name], weight), name
    rms = doctor.observations.rms
    assert len(rms["gradient"].layers) == len(rms["update"].layers) == 6
    assert len(rms["gradient"].steps) == NUM_STEPS
    assert "activation" not in rms


def test_the_hooks_are_back_after_a_compiled_call_also_if_it_raises():
    class Raising(nn.Module):
        def forward(self, x):
            torch._dynamo.graph_break()
            raise ValueError("no")

    torch._dynamo.reset()
    model, other = make(), torch.compile(Raising(), backend="eager")
    watch = st.Watch(model, signals=["activation"])
    with pytest.raises(ValueError, match="no"):
        other(X)
    assert all(map(is_hooked, model))
    model(X).sum().backward()
    assert len(watch.step().signals["activation"]) == 5


def test_what_runs_eagerly_aside_is_hooked_though_compiled():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.RNN(6, 4, batch_first=True)

        def forward(self, x):
            return self.rnn(x)[0][:, -1]

    torch._dynamo.reset()
    model = Recurrent()
    twin = copy.deepcopy(model)
    model.compile(backend="eager")
    found, expected = (gradient_through_time(m, X[:, None].expand(-1, 5, -1), lambda y: y.sum()) for m in (model, twin))
    assert found[0].norms == pytest.approx(expected[0].norms)


def test_a_deep_copy_is_not_measured():
    measured = []
    for copies in (False, True):
        model = make()
        watch = st.Watch(model, signals=["activation", "delta"])
        loss = model(X).square().mean()
        if copies:
            copy.deepcopy(model)(1000 * X).square().mean().backward()
        loss.backward()
        measured.append(watch.step())
    assert measured[0] == measured[1]


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_the_generated_code_computes_the_same(way):
    alone, watched = (train(way, watched, "inductor")[0] for watched in (False, True))
    for name, weight in alone.state_dict().items():
        assert torch.equal(watched.state_dict()[name], weight), name
