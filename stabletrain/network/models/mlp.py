"""The multilayer perceptron."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from stabletrain.network.models.model_parts import Parts, require_shape
from stabletrain.network.normalization import build_norm
from stabletrain.network.residual import Branch, NoResidual, Residual, build_residual, fit_residuals_
from stabletrain.network.residual.stochastic_depth import DropBranch, branch_rates, require_branches


class HiddenLayer(nn.Module):
    """y = residual(x, dropout(φ(norm(W x + b)))).

    Args:
        num_inputs: Number of input features.
        width: Number of units.
        parts: Activation and norm of the layer.
        residual: Joins x with the layer's output.
        dropout: Fraction of units dropped in training, from 0 to below 1.
        drop_rate: Fraction of examples whose whole branch is dropped in training, from 0 to below 1.

    References:
        Ioffe and Szegedy 2015, section 3.2: the norm comes between the weights and the activation.
    """

    def __init__(
        self, num_inputs: int, width: int, parts: Parts, residual: Residual, dropout: float, drop_rate: float = 0.0
    ) -> None:
        super().__init__()
        self.linear = nn.Linear(num_inputs, width)
        self.norm = build_norm(parts.norm, width, "vector")
        self.activation = parts.activation()
        self.dropout = nn.Dropout(dropout)
        self.drop_branch = DropBranch(drop_rate)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        """Map x (batch, num_inputs) to (batch, width)."""
        branch = self.activation(self.norm(self.linear(x)))  # (batch, width)
        return self.residual(x, self.drop_branch(self.dropout(branch)))  # (batch, width), or wider if dense

    def branches(self) -> list[Branch]:
        """Return the layer's only branch."""
        return [Branch(self.residual, (self.linear.weight,))]


class MLP(nn.Module):
    """Multilayer perceptron: `depth` hidden layers of `width` units, then a linear head.

    The first hidden layer maps the inputs to the width; each of the others has a residual connection. With dense
    connections the k-th layer has k − 1 times the width as input.

    Args:
        num_inputs: Features per example, from 1.
        num_outputs: Outputs per example, from 1.
        parts: Activation, norm and residual; tanh, no norm and no residual by default.
        depth: Number of hidden layers, from 1.
        width: Units of each hidden layer, from 1.
        dropout: Fraction of units dropped in training, from 0 to below 1.
        stochastic_depth: Fraction of examples whose last branch is dropped in training, from 0 to below 1; it
            increases linearly with depth up to there. Above 0 it needs an additive residual.

    Raises:
        RequestError: A number is out of range, or a part does not fit.
    """

    input_form: ClassVar[str] = "vector"

    def __init__(
        self,
        num_inputs: int,
        num_outputs: int,
        parts: Parts | None = None,
        *,
        depth: int = 4,  # deep enough for depth to matter, shallow enough to train with any part
        width: int = 64,  # the digits' 64 pixels
        dropout: float = 0.0,
        stochastic_depth: float = 0.0,
    ) -> None:
        super().__init__()
        require_shape(num_inputs, num_outputs, depth, width, dropout)
        parts = parts or Parts()
        require_branches(stochastic_depth, parts.residual(width))
        rates = [0.0, *branch_rates(depth - 1, stochastic_depth)]
        self.layers = nn.ModuleList()
        size = num_inputs
        for layer in range(depth):
            residual = build_residual(parts.residual, width, may_grow=True) if layer else NoResidual(width)
            self.layers.append(HiddenLayer(size, width, parts, residual, dropout, rates[layer]))
            size = residual.join_width(size)
        self.head = nn.Linear(size, num_outputs)
        fit_residuals_(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (batch, num_inputs), or (batch, …) that flattens to it, to (batch, num_outputs)."""
        x = x.flatten(1)  # (batch, num_inputs)
        for layer in self.layers:
            x = layer(x)  # (batch, width), or wider if dense
        return self.head(x)  # (batch, num_outputs)
