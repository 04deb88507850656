"""Recurrent models: RNN, LSTM and GRU, with torch's fused kernels where these support the parts, else unrolled."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from stabletrain.errors import RequestError, require_choice
from stabletrain.network.models.model_parts import OUTPUTS, Parts, require_shape
from stabletrain.network.models.unrolled import Unrolled, UnrolledGRU, UnrolledLSTM, UnrolledRNN
from stabletrain.network.normalization import NoNorm
from stabletrain.network.residual import NoResidual, build_residual, fit_residuals_


class Recurrent(nn.Module, ABC):
    """Stacked recurrent layers, then a linear head on the final hidden state or on those of all steps.

    Abstract: a subclass defines the cell. Dropout is applied to the outputs of every layer, including the last, so
    that it has an effect at depth 1 too.

    Args:
        num_inputs: Features per step, from 1.
        num_outputs: Outputs per example or per step, from 1.
        parts: Activation, norm and residual; tanh, no norm and no residual by default. The activation replaces tanh
            in the cell; gates keep their sigmoid (as in Keras).
        output: `one` output per example, one for `each_step`, or one that predicts the `next_step` at each step, for
            which the network must not be bidirectional.
        depth: Number of stacked layers, from 1.
        width: Hidden units of each layer and direction, from 1.
        dropout: Fraction of a layer's outputs dropped in training, from 0 to below 1.
        bidirectional: Whether a second set of cells reads the sequence backwards.
        implementation: `fused` (torch's kernels: the default activation, no norm, no residual), `unrolled` (any
            parts), or `auto`, which is `fused` where the parts allow it. Parameters are the same in both.

    Raises:
        RequestError: A number is out of range, parts do not fit, or `fused` does not support them.
    """

    input_form: ClassVar[str] = "sequence"
    fused_modes: ClassVar[dict[type[nn.Module], str]]  # activations of the fused kernel, and torch's names for them

    def __init__(
        self,
        num_inputs: int,
        num_outputs: int,
        parts: Parts | None = None,
        *,
        output: str = "one",
        depth: int = 1,  # measured: one layer of 64 reaches 0.95–0.98 on the 8 rows of a digit in 30 epochs
        width: int = 64,
        dropout: float = 0.0,
        bidirectional: bool = False,
        implementation: str = "auto",
    ) -> None:
        super().__init__()
        require_shape(num_inputs, num_outputs, depth, width, dropout)
        parts = parts or Parts()
        self.output = require_choice("output", output, OUTPUTS)
        if bidirectional and output == "next_step":
            raise RequestError(
                "A network that reads backwards has access to the steps that it should predict.",
                key="bidirectional",
                found=bidirectional,
                allowed="false with this data",
                closest="false",
            )
        build_residual(parts.residual, width)  # raises for a residual that does not fit, also at depth 1
        sizes = (num_inputs, width, depth)
        between = dropout if depth > 1 else 0.0
        if self._choose(implementation, parts, depth, width) == "fused":
            self.rnn = self.build_fused(*sizes, parts, dropout=between, bidirectional=bidirectional)
        else:
            self.rnn = self.build_unrolled(*sizes, parts, dropout=between, bidirectional=bidirectional)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width * (2 if bidirectional else 1), num_outputs)
        fit_residuals_(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (batch, time, num_inputs) to (batch, num_outputs), or (batch, time, num_outputs)."""
        outputs = self.rnn(x)[0]  # (batch, time, directions · width)
        if self.output != "one":
            return self.head(self.dropout(outputs))  # (batch, time, num_outputs)
        width = self.rnn.hidden_size
        last = [outputs[:, -1, :width], outputs[:, 0, width:]]  # the backward cells read step 0 last
        return self.head(self.dropout(torch.cat(last, dim=-1)))  # (batch, num_outputs)

    @abstractmethod
    def build_fused(
        self, num_inputs: int, width: int, depth: int, parts: Parts, *, dropout: float, bidirectional: bool
    ) -> nn.RNNBase:
        """Build torch's module for the cell."""

    @abstractmethod
    def build_unrolled(
        self, num_inputs: int, width: int, depth: int, parts: Parts, *, dropout: float, bidirectional: bool
    ) -> Unrolled:
        """Build the unrolled cell, which supports any parts."""

    def _choose(self, implementation: str, parts: Parts, depth: int, width: int) -> str:
        require_choice("implementation", implementation, ("auto", "fused", "unrolled"))
        if implementation == "unrolled":
            return implementation
        obstacle = self._find_obstacle(parts, depth, width)
        if implementation == "auto":
            return "unrolled" if obstacle else "fused"
        if obstacle:
            raise RequestError(
                f"The fused {type(self).__name__} does not support {obstacle}.",
                key="implementation",
                found=implementation,
                allowed="auto or unrolled with these parts",
            )
        return implementation

    def _find_obstacle(self, parts: Parts, depth: int, width: int) -> str | None:
        activation, norm = parts.activation(), parts.norm(width)
        if type(activation) not in self.fused_modes:
            return f"the activation {type(activation).__name__}"
        if type(norm) is not NoNorm:  # including weight norm: a fused kernel keeps its own list of weights
            return f"the norm {type(norm).__name__}"
        residual = parts.residual(width) if depth > 1 else NoResidual(width)
        return None if isinstance(residual, NoResidual) else f"the residual {type(residual).__name__}"


class RNN(Recurrent):
    """Plain recurrent network: h_t = φ(W_ih x_t + W_hh h_{t−1} + b); see `Recurrent` for the arguments.

    References:
        Elman 1990, Finding Structure in Time.
    """

    fused_modes: ClassVar[dict[type[nn.Module], str]] = {nn.Tanh: "tanh", nn.ReLU: "relu"}

    def build_fused(
        self, num_inputs: int, width: int, depth: int, parts: Parts, *, dropout: float, bidirectional: bool
    ) -> nn.RNNBase:
        """Build torch.nn.RNN with tanh or relu."""
        mode = self.fused_modes[type(parts.activation())]
        return nn.RNN(
            num_inputs,
            width,
            depth,
            nonlinearity=mode,
            batch_first=True,
            dropout=dropout,
            bidirectional=bidirectional,
        )

    def build_unrolled(
        self, num_inputs: int, width: int, depth: int, parts: Parts, *, dropout: float, bidirectional: bool
    ) -> Unrolled:
        """Build UnrolledRNN; the mode sets the number of gates only, the activation comes from the parts."""
        return UnrolledRNN("RNN_TANH", num_inputs, width, depth, parts, dropout=dropout, bidirectional=bidirectional)


class LSTM(Recurrent):
    """Long short-term memory with a forget gate; see `UnrolledLSTM` for the equations.

    References:
        Hochreiter and Schmidhuber 1997; Gers et al. 2000 (forget gate).
    """

    fused_modes: ClassVar[dict[type[nn.Module], str]] = {nn.Tanh: "tanh"}

    def build_fused(
        self, num_inputs: int, width: int, depth: int, parts: Parts, *, dropout: float, bidirectional: bool
    ) -> nn.RNNBase:
        """Build torch.nn.LSTM."""
        return nn.LSTM(num_inputs, width, depth, batch_first=True, dropout=dropout, bidirectional=bidirectional)

    def build_unrolled(
        self, num_inputs: int, width: int, depth: int, parts: Parts, *, dropout: float, bidirectional: bool
    ) -> Unrolled:
        """Build UnrolledLSTM."""
        return UnrolledLSTM("LSTM", num_inputs, width, depth, parts, dropout=dropout, bidirectional=bidirectional)


class GRU(Recurrent):
    """Gated recurrent unit; see `UnrolledGRU` for the equations.

    References:
        Cho et al. 2014, Learning Phrase Representations using RNN Encoder-Decoder, eq. 5–8.
    """

    fused_modes: ClassVar[dict[type[nn.Module], str]] = {nn.Tanh: "tanh"}

    def build_fused(
        self, num_inputs: int, width: int, depth: int, parts: Parts, *, dropout: float, bidirectional: bool
    ) -> nn.RNNBase:
        """Build torch.nn.GRU."""
        return nn.GRU(num_inputs, width, depth, batch_first=True, dropout=dropout, bidirectional=bidirectional)

    def build_unrolled(
        self, num_inputs: int, width: int, depth: int, parts: Parts, *, dropout: float, bidirectional: bool
    ) -> Unrolled:
        """Build UnrolledGRU."""
        return UnrolledGRU("GRU", num_inputs, width, depth, parts, dropout=dropout, bidirectional=bidirectional)
