"""The gradient through time that training shows, against the model run again."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import stabletrain as st
from stabletrain.inspection.time_flow import MAX_EXAMPLES, TimeFlow


class Around(nn.Module):
    """A recurrent layer between others."""

    def __init__(self, layer: nn.Module, size: int) -> None:
        super().__init__()
        self.embed, self.layer, self.head = nn.Linear(2, 3), layer, nn.Linear(size, 1)

    def forward(self, x):
        return self.head(self.layer(self.embed(x))[0])


class Cells(nn.Module):
    """A loop over a cell."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell, self.head = cell, nn.Linear(4, 1)

    def forward(self, x):
        state = None
        for t in range(x.shape[1]):
            state = self.cell(x[:, t], state)
        return self.head(state[0] if isinstance(state, tuple) else state)


MODELS = {
    "rnn": lambda: Around(nn.RNN(3, 4, batch_first=True), 4),
    "relu, time first": lambda: Around(nn.RNN(3, 4, nonlinearity="relu"), 4),
    "two layers of lstm": lambda: Around(nn.LSTM(3, 4, num_layers=2, batch_first=True), 4),
    "both directions of gru": lambda: Around(nn.GRU(3, 4, bidirectional=True, batch_first=True), 8),
    "lstm with a projection": lambda: Around(nn.LSTM(3, 4, proj_size=2, batch_first=True), 2),
    "rnn cell": lambda: Cells(nn.RNNCell(2, 4)),
    "lstm cell": lambda: Cells(nn.LSTMCell(2, 4)),
}


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("name", MODELS)
def test_norms_are_those_of_a_second_run(name):
    torch.manual_seed(0)
    model, x = MODELS[name](), torch.randn(MAX_EXAMPLES, 7, 2)
    if "first" in name:
        x = x.transpose(0, 1)
    expected = st.gradient_through_time(model, x, lambda outputs: outputs.square().sum())
    flow = TimeFlow(model)
    flow.open()
    model(x).square().sum().backward()
    found = {time.layer: time.norms for time in flow.collect()}
    assert list(found) == [time.layer for time in expected]
    for time in expected:
        np.testing.assert_allclose(found[time.layer], time.norms, rtol=1e-4)
    flow.open()
    assert flow.collect() == []


def test_it_changes_nothing():
    torch.manual_seed(0)
    model, x = MODELS["two layers of lstm"](), torch.randn(9, 7, 2)
    model(x).square().sum().backward()
    plain = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    flow = TimeFlow(model)
    flow.open()
    model(x).square().sum().backward()
    state = torch.get_rng_state()
    assert flow.collect()
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), plain, strict=True))


@pytest.mark.parametrize("inputs", ["packed", "one sequence", "evaluation"])
def test_what_cannot_be_measured_is_left_out(inputs):
    model = nn.GRU(2, 4, batch_first=True)
    flow = TimeFlow(model)
    flow.open()
    x = torch.randn(3, 5, 2)
    if inputs == "packed":
        x = nn.utils.rnn.pack_padded_sequence(x, [5, 4, 2], batch_first=True)
    elif inputs == "one sequence":
        x = x[0]
    else:
        model.eval()
    output, _ = model(x)
    (output.data if inputs == "packed" else output).sum()
    assert flow.collect() == []
