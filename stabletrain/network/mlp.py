"""The multilayer perceptron."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from stabletrain.network.parts import Parts, require_shape
from stabletrain.network.residual import NoResidual, Residual


class HiddenLayer(nn.Module):
    """y = residual(x, dropout(φ(norm(W x + b)))).

    Args:
        num_inputs: Features in.
        width: Units.
        parts: Activation and norm of the layer.
        residual: Joins x with the layer's output.
        dropout: Share of units dropped while training, from 0 to below 1.

    References:
        Ioffe and Szegedy 2015, section 3.2: the norm stands between the weights and the activation.
    """

    def __init__(self, num_inputs: int, width: int, parts: Parts, residual: Residual, dropout: float) -> None:
        super().__init__()
        self.linear = nn.Linear(num_inputs, width)
        self.norm = parts.norm(width)
        self.activation = parts.activation()
        self.dropout = nn.Dropout(dropout)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        """Map x (batch, num_inputs) to (batch, width)."""
        branch = self.activation(self.norm(self.linear(x)))  # (batch, width)
        return self.residual(x, self.dropout(branch))  # (batch, width)


class MLP(nn.Module):
    """Multilayer perceptron: `depth` hidden layers of `width` units, then a linear head.

    The first hidden layer projects the inputs to the width; residuals go around each of the others.

    Args:
        num_inputs: Features per example, from 1.
        num_outputs: Values per example, from 1.
        parts: Activation, norm and residual; tanh, none and none if left out.
        depth: Number of hidden layers, from 1.
        width: Units of each hidden layer, from 1.
        dropout: Share of units dropped while training, from 0 to below 1.

    Raises:
        RequestError: A number is out of its range.
    """

    input_form: ClassVar[str] = "vector"

    def __init__(
        self,
        num_inputs: int,
        num_outputs: int,
        parts: Parts | None = None,
        *,
        depth: int = 4,  # deep enough for depth to matter, shallow enough for any part to train
        width: int = 64,  # the digits' 64 pixels
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        require_shape(num_inputs, num_outputs, depth, width, dropout)
        parts = parts or Parts()
        self.layers = nn.ModuleList()
        for layer in range(depth):
            residual = parts.residual(width) if layer else NoResidual(width)
            self.layers.append(HiddenLayer(width if layer else num_inputs, width, parts, residual, dropout))
        self.head = nn.Linear(width, num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (batch, num_inputs), or (batch, …) with as many values, to (batch, num_outputs)."""
        x = x.flatten(1)  # (batch, num_inputs)
        for layer in self.layers:
            x = layer(x)  # (batch, width)
        return self.head(x)  # (batch, num_outputs)
