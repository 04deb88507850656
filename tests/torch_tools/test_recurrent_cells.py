"""The cell equations against torch's own cells."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from stabletrain.torch_tools.recurrent_cells import step_gru, step_lstm

BATCH, INPUTS, WIDTH = 3, 4, 5


def make(kind):
    torch.manual_seed(0)
    cell = kind(INPUTS, WIDTH).double()
    x, hidden, state = (torch.randn(BATCH, size, dtype=torch.float64) for size in (INPUTS, WIDTH, WIDTH))
    return (
        cell,
        F.linear(x, cell.weight_ih, cell.bias_ih),
        F.linear(hidden, cell.weight_hh, cell.bias_hh),
        x,
        hidden,
        state,
    )


def test_the_lstm_is_that_of_torch():
    cell, from_input, from_hidden, x, hidden, state = make(nn.LSTMCell)
    expected = cell(x, (hidden, state))
    torch.testing.assert_close(step_lstm(from_input + from_hidden, state), expected, rtol=1e-12, atol=1e-12)


def test_the_gru_is_that_of_torch():
    cell, from_input, from_hidden, x, hidden, _ = make(nn.GRUCell)
    (r_x, z_x, n_x), (r_h, z_h, n_h) = from_input.chunk(3, -1), from_hidden.chunk(3, -1)
    found = step_gru((r_x + r_h).sigmoid(), (z_x + z_h).sigmoid(), n_x, n_h, hidden)
    torch.testing.assert_close(found, cell(x, hidden), rtol=1e-12, atol=1e-12)


def test_the_norm_acts_where_the_cell_state_is_read_and_nowhere_else():
    gates, state = torch.zeros(1, 4), torch.tensor([[4.0]])  # every gate at ½, candidate 0
    hidden, cell = step_lstm(gates, state, lambda x: 3 * x, lambda c: c + 1)
    assert float(cell) == 2.0  # ½ · 4 + ½ · 0
    assert float(hidden) == 4.5  # ½ · 3 · (2 + 1)


@pytest.mark.parametrize(("update", "expected"), [(1.0, 7.0), (0.0, 5.0)])  # 1 keeps the state, 0 takes the candidate
def test_the_update_gate_keeps_the_state(update, expected):
    reset, update, from_input, from_hidden, hidden = (torch.tensor([[v]]) for v in (2.0, update, 1.0, 2.0, 7.0))
    assert float(step_gru(reset, update, from_input, from_hidden, hidden, activation=lambda x: x)) == expected
