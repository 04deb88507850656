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
        num_inputs: Features in.
        width: Units.
        parts: Activation and norm of the layer.
        residual: Joins x with the layer's output.
        dropout: Share of units dropped while training, from 0 to below 1.
        drop_rate: Share of examples whose whole branch is dropped while training, from 0 to below 1.

    References:
        Ioffe and Szegedy 2015, section 3.2: the norm stands between the weights and the activation.
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
        return self.residual(x, self.drop_branch(self.dropout(branch)))  # (batch, width), or more if dense

    def branches(self) -> list[Branch]:
        """Return the layer's one branch."""
        return [Branch(self.residual, (self.linear.weight,))]


class MLP(nn.Module):
    """Multilayer perceptron: `depth` hidden layers of `width` units, then a linear head.

    The first hidden layer projects the inputs to the width; residuals go around each of the others. With dense
    connections the k-th layer reads k − 1 times the width.

    Args:
        num_inputs: Features per example, from 1.
        num_outputs: Values per example, from 1.
        parts: Activation, norm and residual; tanh, none and none if left out.
        depth: Number of hidden layers, from 1.
        width: Units of each hidden layer, from 1.
        dropout: Share of units dropped while training, from 0 to below 1.
        stochastic_depth: Share of examples whose last branch is dropped while training, from 0 to below 1; less
            for branches before it. Above 0 it needs residuals.

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
        """Map x (batch, num_inputs), or (batch, …) with as many values, to (batch, num_outputs)."""
        x = x.flatten(1)  # (batch, num_inputs)
        for layer in self.layers:
            x = layer(x)  # (batch, width), or wider if dense
        return self.head(x)  # (batch, num_outputs)
