"""Compute the fused recurrent layers of torch step by step from their weights, so that every state can be observed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence

from stabletrain.errors import RequestError
from stabletrain.torch_tools.recurrent_cells import step_gru, step_lstm

FUSED = (nn.RNN, nn.LSTM, nn.GRU)
Note = Callable[[str, Tensor], Tensor]


def replay(module: Any, note: Note, input: Tensor, hx: Any = None) -> tuple[Tensor, Any]:
    """Compute the forward pass of an `nn.RNN`, `nn.LSTM` or `nn.GRU` in evaluation mode, step by step.

    Args:
        module: The layer; only its weights and sizes are used.
        note: Called with the cell's name (`l0`, `l0_reverse`, …) and each new h; returns the h to continue with.
        input: (time, batch, features), (batch, time, features) with `batch_first`, or (time, features).
        hx: The initial state; zero by default.

    Returns:
        The same as `module(input, hx)`: the outputs, and the final state.

    Raises:
        RequestError: The input is a packed sequence.
        RuntimeError: Sizes do not match; the message is torch's.
    """
    if isinstance(input, PackedSequence):
        raise RequestError(
            "The gradient through time cannot be computed for a packed sequence.",
            key="inputs",
            found="PackedSequence",
            allowed="sequences of one length, as a tensor",
        )
    is_batched = input.dim() == 3
    x = input if is_batched else input.unsqueeze(0 if module.batch_first else 1)
    initial = _initial_state(module, hx, x, is_batched)
    x = x.transpose(0, 1) if module.batch_first else x  # (time, batch, features)
    states = list(zip(*(part.unbind(0) for part in initial), strict=True))  # per cell (h,) or (h, c), each (batch, H)
    finals = []
    suffixes = ("", "_reverse") if module.bidirectional else ("",)
    for layer in range(module.num_layers):
        outputs = []
        for suffix in suffixes:
            output, final = _scan(module, note, f"l{layer}{suffix}", x, states[len(finals)])
            outputs.append(output)
            finals.append(final)
        x = torch.cat(outputs, dim=-1)  # (time, batch, directions · H)
    stacked = tuple(torch.stack(part) for part in zip(*finals, strict=True))
    if not is_batched:
        x, stacked = x[:, 0], tuple(part[:, 0] for part in stacked)
    elif module.batch_first:
        x = x.transpose(0, 1)
    hidden, *cell = stacked
    return x, (hidden, *cell) if cell else hidden


def _initial_state(module: Any, hx: Any, x: Tensor, is_batched: bool) -> tuple[Tensor, ...]:
    """Return (h,) or (h, c), each (cells, batch, H), checked by torch's own `check_forward_args`."""
    batch = x.size(0 if module.batch_first else 1)
    num_cells = module.num_layers * (2 if module.bidirectional else 1)
    if hx is None:
        hidden = x.new_zeros(num_cells, batch, module.proj_size or module.hidden_size)
        parts = (hidden, x.new_zeros(num_cells, batch, module.hidden_size)) if module.mode == "LSTM" else (hidden,)
    else:
        parts = (hx,) if isinstance(hx, Tensor) else tuple(hx)
        parts = parts if is_batched else tuple(part.unsqueeze(1) for part in parts)
    module.check_forward_args(x, parts if module.mode == "LSTM" else parts[0], None)
    return parts


def _scan(module: Any, note: Note, key: str, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
    has_bias = module.bias
    weights = [getattr(module, f"{name}_{key}") for name in ("weight_ih", "weight_hh")]
    biases = [getattr(module, f"{name}_{key}") if has_bias else None for name in ("bias_ih", "bias_hh")]
    projection = getattr(module, f"weight_hr_{key}") if module.proj_size else None
    products = F.linear(x, weights[0], biases[0]).unbind(0)  # time · (batch, gates · H)
    hidden = []
    for product in reversed(products) if key.endswith("_reverse") else products:
        h, *rest = CELLS[module.mode](product, F.linear(state[0], weights[1], biases[1]), state)
        h = note(key, h if projection is None else F.linear(h, projection))
        state = (h, *rest)
        hidden.append(h)
    if key.endswith("_reverse"):
        hidden.reverse()
    return torch.stack(hidden), state


def _step_gru(from_input: Tensor, from_hidden: Tensor, hidden: Tensor) -> Tensor:
    reset_x, update_x, new_x = from_input.chunk(3, dim=-1)  # (batch, H) each
    reset_h, update_h, new_h = from_hidden.chunk(3, dim=-1)
    return step_gru((reset_x + reset_h).sigmoid(), (update_x + update_h).sigmoid(), new_x, new_h, hidden)


CELLS: dict[str, Callable[[Tensor, Tensor, tuple[Tensor, ...]], tuple[Tensor, ...]]] = {
    "RNN_TANH": lambda x, h, _: ((x + h).tanh(),),
    "RNN_RELU": lambda x, h, _: ((x + h).relu(),),
    "LSTM": lambda x, h, state: step_lstm(x + h, state[1]),
    "GRU": lambda x, h, state: (_step_gru(x, h, state[0]),),
}
