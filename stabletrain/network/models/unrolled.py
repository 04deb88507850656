"""Recurrent layers computed step by step, so that the cell can have any activation, norm and residual.

Parameters have the names and shapes of `torch.nn.RNN`, `LSTM` and `GRU`, inputs and outputs are theirs with
`batch_first=True`, and without norm and residual so are the results: both can load each other's `state_dict`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from stabletrain.network.models.model_parts import Parts
from stabletrain.network.normalization.step_norm import build_step_norm, normalize_step
from stabletrain.network.residual import build_residual
from stabletrain.torch_tools.recurrent_cells import step_gru, step_lstm

State = tuple[Tensor, ...]  # (h,) or (h, c), each (batch, width)


class Unrolled(nn.RNNBase, ABC):
    """Stacked recurrent layers; a subclass defines one step.

    Norms act on W x and W h, before the biases are added. Every layer except the first has a residual connection.
    Dropout acts on the input of a layer, not on the skip and not on the hidden state between steps.

    Args:
        mode: torch's name of the cell, which sets the number of gates stacked in a weight.
        input_size: Features per step.
        hidden_size: Hidden units H.
        num_layers: Stacked layers.
        parts: Activation, norm and residual.
        dropout: Fraction of units dropped between layers in training.
        bidirectional: Whether a second set of cells reads the sequence backwards.

    References:
        Zaremba et al. 2014, Recurrent Neural Network Regularization, section 3.1 (where dropout goes).
    """

    num_states = 1

    def __init__(
        self,
        mode: str,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        parts: Parts,
        *,
        dropout: float = 0.0,
        bidirectional: bool = False,
    ) -> None:
        super().__init__(
            mode, input_size, hidden_size, num_layers, batch_first=True, dropout=dropout, bidirectional=bidirectional
        )
        self._suffixes = ("", "_reverse") if bidirectional else ("",)
        keys = [f"l{layer}{suffix}" for layer in range(num_layers) for suffix in self._suffixes]
        width = hidden_size * len(self._suffixes)
        self.activations = nn.ModuleDict({key: parts.activation() for key in keys})
        self.norms = nn.ModuleDict(
            {
                f"{place}_{key}": build_step_norm(parts.norm, size)
                for key in keys
                for place, size in self.norm_sizes(hidden_size).items()
            }
        )
        self.residuals = nn.ModuleDict(
            {f"l{layer}": build_residual(parts.residual, width) for layer in range(1, num_layers)}
        )

    def _init_flat_weights(self) -> None:
        """Keep no list of the weights: filling torch's (2.13.0) would advance the iteration of spectral norm."""
        self._flat_weights = [None] * len(self._flat_weights_names)

    def _weights_have_changed(self) -> bool:
        """Return False, since no list is kept; torch 2.13.0 asks when a module is copied or unpickled."""
        return False

    @staticmethod
    @abstractmethod
    def norm_sizes(hidden_size: int) -> dict[str, int]:
        """Return the places of the norms in the cell, and the width of each."""

    @abstractmethod
    def step(self, key: str, product: Tensor, state: State, step: int) -> State:
        """Advance one cell by one step.

        Args:
            key: Layer and direction of the cell, as in the parameter names.
            product: W_ih x_t, (batch, gates · H), without bias.
            state: The previous state.
            step: Number of steps that the cell has made in this sequence before.
        """

    def forward(self, x: Tensor, hx: Tensor | tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor | State]:
        """Run over the sequence x, and return the same as torch.nn.RNN, LSTM and GRU.

        Args:
            x: (batch, time, input_size).
            hx: The initial state, (layers · directions, batch, H), a pair of these for LSTM; zero by default.

        Returns:
            The top layer's output (batch, time, directions · H), and the final state, shaped as `hx`.
        """
        with parametrize.cached():  # computes parametrized weights once per pass, not once per step
            return self._read(x, self._split_state(x, hx))

    def _read(self, x: Tensor, states: list[State]) -> tuple[Tensor, Tensor | State]:
        finals = []
        for layer in range(self.num_layers):
            inputs = F.dropout(x, self.dropout, self.training) if layer else x  # (batch, time, features)
            outputs = []
            for suffix in self._suffixes:
                output, final = self._scan(f"l{layer}{suffix}", inputs, states[len(finals)])
                outputs.append(output)
                finals.append(final)
            branch = torch.cat(outputs, dim=-1)  # (batch, time, directions · H)
            x = self.residuals[f"l{layer}"](x, branch) if layer else branch
        stacked = tuple(torch.stack(part) for part in zip(*finals, strict=True))
        return x, stacked if self.num_states > 1 else stacked[0]

    def _split_state(self, x: Tensor, hx: Tensor | tuple[Tensor, Tensor] | None) -> list[State]:
        num_cells = self.num_layers * len(self._suffixes)
        if hx is None:
            zero = x.new_zeros(x.size(0), self.hidden_size)  # (batch, H)
            return [(zero,) * self.num_states] * num_cells
        parts = (hx,) if isinstance(hx, Tensor) else hx
        return [tuple(part[cell] for part in parts) for cell in range(num_cells)]

    def _scan(self, key: str, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        products = F.linear(inputs, getattr(self, f"weight_ih_{key}")).unbind(1)  # time · (batch, gates · H)
        backwards = key.endswith("_reverse")
        hidden = []
        for step, product in enumerate(reversed(products) if backwards else products):
            state = self.step(key, product, state, step)
            hidden.append(state[0])
        if backwards:
            hidden.reverse()
        return torch.stack(hidden, dim=1), state  # (batch, time, H)

    def _norm(self, place: str, key: str, x: Tensor, step: int) -> Tensor:
        return normalize_step(self.norms[f"{place}_{key}"], x, step)

    def _cell(self, key: str) -> tuple[nn.Module, Tensor, Tensor, Tensor]:
        weight_hh, bias_ih, bias_hh = (getattr(self, f"{name}_{key}") for name in ("weight_hh", "bias_ih", "bias_hh"))
        return self.activations[key], weight_hh, bias_ih, bias_hh


class UnrolledRNN(Unrolled):
    """h_t = φ(N(W_ih x_t + W_hh h_{t−1}) + b_ih + b_hh).

    References:
        Ba et al. 2016, Layer Normalization, eq. 4.
    """

    @staticmethod
    def norm_sizes(hidden_size: int) -> dict[str, int]:
        """One norm, on the sum of both products."""
        return {"sum": hidden_size}

    def step(self, key: str, product: Tensor, state: State, step: int) -> State:
        """Advance h by one step."""
        activation, weight_hh, bias_ih, bias_hh = self._cell(key)
        summed = product + F.linear(state[0], weight_hh)  # (batch, H)
        return (activation(self._norm("sum", key, summed, step) + bias_ih + bias_hh),)


class UnrolledLSTM(Unrolled):
    """LSTM whose gates are (i, f, g, o) = N(W_hh h_{t−1}) + N(W_ih x_t) + b; see `recurrent_cells.step_lstm`.

    References:
        Ba et al. 2016, Layer Normalization, supplement eq. 20–22; Cooijmans et al. 2017, eq. 6–8, is the
        same with batch norm.
    """

    num_states = 2

    @staticmethod
    def norm_sizes(hidden_size: int) -> dict[str, int]:
        """Norms on W_ih x, on W_hh h, and on the cell state where h reads it."""
        return {"input": 4 * hidden_size, "hidden": 4 * hidden_size, "cell": hidden_size}

    def step(self, key: str, product: Tensor, state: State, step: int) -> State:
        """Advance h and c by one step."""
        activation, weight_hh, bias_ih, bias_hh = self._cell(key)
        hidden, cell = state  # (batch, H) each
        from_input = self._norm("input", key, product, step) + bias_ih  # (batch, 4H)
        from_hidden = self._norm("hidden", key, F.linear(hidden, weight_hh), step) + bias_hh  # (batch, 4H)
        return step_lstm(from_input + from_hidden, cell, activation, lambda c: self._norm("cell", key, c, step))


class UnrolledGRU(Unrolled):
    """GRU with norms on the products; see `recurrent_cells.step_gru`.

        (r, z) = σ(N(W_ih x_t) + N(W_hh h_{t−1}) + b)
        n = φ(N(W_in x_t) + b_in + r ⊙ (N(W_hn h_{t−1}) + b_hn))

    The supplement writes z for 1 − z.

    References:
        Ba et al. 2016, Layer Normalization, supplement eq. 26–28.
    """

    @staticmethod
    def norm_sizes(hidden_size: int) -> dict[str, int]:
        """Norms on both products, separate for the gates and for the candidate."""
        gates, candidate = 2 * hidden_size, hidden_size
        return {
            "input_gates": gates,
            "hidden_gates": gates,
            "input_candidate": candidate,
            "hidden_candidate": candidate,
        }

    def step(self, key: str, product: Tensor, state: State, step: int) -> State:
        """Advance h by one step."""
        activation, weight_hh, bias_ih, bias_hh = self._cell(key)
        (hidden,) = state  # (batch, H)
        input_gates, input_candidate = self._split("input", key, product, bias_ih, step)
        hidden_gates, hidden_candidate = self._split("hidden", key, F.linear(hidden, weight_hh), bias_hh, step)
        reset, update = (input_gates + hidden_gates).sigmoid().chunk(2, dim=-1)  # (batch, H) each
        return (step_gru(reset, update, input_candidate, hidden_candidate, hidden, activation),)

    def _split(self, place: str, key: str, product: Tensor, bias: Tensor, step: int) -> tuple[Tensor, Tensor]:
        sizes = [2 * self.hidden_size, self.hidden_size]
        gates, candidate = product.split(sizes, dim=-1)  # (batch, 2H), (batch, H)
        gates_bias, candidate_bias = bias.split(sizes)
        return (
            self._norm(f"{place}_gates", key, gates, step) + gates_bias,
            self._norm(f"{place}_candidate", key, candidate, step) + candidate_bias,
        )
