"""Compute one step of an LSTM or a GRU, for code that runs the recurrent layers of torch step by step.

The equations, the order of the gates and the names are those of `torch.nn.LSTM` and `torch.nn.GRU`. The functions
take the products W x and W h, so that a caller can compute W x for all time steps in one multiplication, and can
normalize the products.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def step_lstm(
    gates: Tensor,
    cell: Tensor,
    activation: Callable[[Tensor], Tensor] = torch.tanh,
    normalize_cell: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Advance an LSTM by one step.

        (i, f, g, o) = W_ih x_t + b_ih + W_hh h_{t−1} + b_hh
        c_t = σ(f) ⊙ c_{t−1} + σ(i) ⊙ φ(g)
        h_t = σ(o) ⊙ φ(N(c_t))

    Args:
        gates: The summed products (batch, 4H), stacked as input, forget, cell and output gate.
        cell: c_{t−1}, (batch, H).
        activation: φ; tanh in torch.
        normalize_cell: N, applied to c_t only in the equation of h_t; None for the identity.

    Returns:
        h_t and c_t, (batch, H) each. A projection of h_t (`proj_size`) is left to the caller.

    References:
        Hochreiter and Schmidhuber 1997, Long Short-Term Memory; Gers et al. 2000 (the forget gate);
        Cooijmans et al. 2017, Recurrent Batch Normalization, eq. 8 (N).
    """
    i, f, g, o = gates.chunk(4, dim=-1)  # (batch, H) each
    cell = f.sigmoid() * cell + i.sigmoid() * activation(g)
    return o.sigmoid() * activation(cell if normalize_cell is None else normalize_cell(cell)), cell


def step_gru(
    reset: Tensor,
    update: Tensor,
    from_input: Tensor,
    from_hidden: Tensor,
    hidden: Tensor,
    activation: Callable[[Tensor], Tensor] = torch.tanh,
) -> Tensor:
    """Advance a GRU by one step.

        r = σ(W_ir x_t + b_ir + W_hr h_{t−1} + b_hr)
        z = σ(W_iz x_t + b_iz + W_hz h_{t−1} + b_hz)
        n = φ(W_in x_t + b_in + r ⊙ (W_hn h_{t−1} + b_hn))
        h_t = (1 − z) ⊙ n + z ⊙ h_{t−1}

    The paper writes z for 1 − z, and applies r to h_{t−1} rather than to its product.

    Args:
        reset: r, (batch, H). The caller applies the sigmoid: on a CPU, σ of both gates at once and σ of each gate
            differ in the last bit, and callers compute it differently.
        update: z, (batch, H).
        from_input: W_in x_t + b_in, (batch, H).
        from_hidden: W_hn h_{t−1} + b_hn, (batch, H).
        hidden: h_{t−1}, (batch, H).
        activation: φ; tanh in torch.

    Returns:
        h_t, (batch, H).

    References:
        Cho et al. 2014, Learning Phrase Representations using RNN Encoder-Decoder, eq. 5–8.
    """
    candidate = activation(from_input + reset * from_hidden)
    return (1 - update) * candidate + update * hidden
