"""The plain convolutional network."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from stabletrain.network.models.convolution import average, build_convolution, halve, to_channels
from stabletrain.network.models.model_parts import Parts, require_shape
from stabletrain.network.normalization import build_norm
from stabletrain.network.residual import Branch, NoResidual, Residual, build_residual, fit_residuals_
from stabletrain.network.residual.stochastic_depth import DropBranch, branch_rates, require_branches

_NUM_STAGES = 3  # as in He et al. 2016, section 4.2, whose plain networks halve the image twice


class ConvolutionalLayer(nn.Module):
    """y = residual(x, dropout(φ(norm(W ∗ x + b)))), kernels of 3 positions.

    Args:
        num_inputs: Number of input channels.
        width: Number of output channels.
        parts: Activation and norm of the layer.
        residual: Joins x with the layer's output.
        form: `image` or `sequence`.
        dropout: Fraction of channels dropped in training, from 0 to below 1.
        drop_rate: Fraction of examples whose whole branch is dropped in training, from 0 to below 1.
    """

    def __init__(
        self,
        num_inputs: int,
        width: int,
        parts: Parts,
        residual: Residual,
        form: str,
        dropout: float,
        drop_rate: float,
    ) -> None:
        super().__init__()
        self.conv = build_convolution(form, num_inputs, width)
        self.norm = build_norm(parts.norm, width, "channels")
        self.activation = parts.activation()
        self.dropout = nn.Dropout1d(dropout) if form == "sequence" else nn.Dropout2d(dropout)
        self.drop_branch = DropBranch(drop_rate)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        """Map x (batch, num_inputs, *positions) to (batch, width, *positions), or wider with dense connections."""
        branch = self.activation(self.norm(self.conv(x)))
        return self.residual(x, self.drop_branch(self.dropout(branch)))

    def branches(self) -> list[Branch]:
        """Return the layer's only branch."""
        return [Branch(self.residual, (self.conv.weight,))]


class CNN(nn.Module):
    """Plain convolutional network: `depth` layers with two poolings in between, average pooling and a linear head.

    The first layer maps the inputs to `width` channels; each of the others has a residual connection. Positions are
    halved after a third and after two thirds of the layers, along every axis that has four or more.

    Args:
        num_inputs: Channels of an image, or features per time step, from 1.
        num_outputs: Outputs per example, from 1.
        parts: Activation, norm and residual; tanh, no norm and no residual by default.
        form: `image`: x is (batch, channels, height, width); `sequence`: x is (batch, time, features).
        depth: Number of convolutions, from 1.
        width: Channels of each layer, from 1.
        dropout: Fraction of channels dropped in training, from 0 to below 1 (Tompson et al. 2015, section 3.2).
        stochastic_depth: Fraction of examples whose last branch is dropped in training, from 0 to below 1; it
            increases linearly with depth up to there. Above 0 it needs an additive residual.

    Raises:
        RequestError: A number is out of range, or a part does not fit.

    References:
        LeCun et al. 1998, Gradient-Based Learning; He et al. 2016, section 4.2 (the plain network).
    """

    input_form: ClassVar[tuple[str, ...]] = ("image", "sequence")

    def __init__(
        self,
        num_inputs: int,
        num_outputs: int,
        parts: Parts | None = None,
        *,
        form: str = "image",
        depth: int = 4,  # measured: see docs/models.md
        width: int = 32,
        dropout: float = 0.0,
        stochastic_depth: float = 0.0,
    ) -> None:
        super().__init__()
        require_shape(num_inputs, num_outputs, depth, width, dropout)
        parts = parts or Parts()
        require_branches(stochastic_depth, parts.residual(width))
        rates = [0.0, *branch_rates(depth - 1, stochastic_depth)]
        self.form = form
        self.layers = nn.ModuleList()
        size = num_inputs
        for layer in range(depth):
            residual = build_residual(parts.residual, width, axis=1, may_grow=True) if layer else NoResidual(width)
            self.layers.append(ConvolutionalLayer(size, width, parts, residual, form, dropout, rates[layer]))
            size = residual.join_width(size)
        self._halved_after = {depth * stage // _NUM_STAGES for stage in range(1, _NUM_STAGES)} - {0}
        self.head = nn.Linear(size, num_outputs)
        fit_residuals_(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (batch, channels, height, width), or (batch, time, features), to (batch, num_outputs)."""
        x = to_channels(x, self.form)  # (batch, channels, *positions)
        for number, layer in enumerate(self.layers, start=1):
            x = layer(x)  # (batch, width, *positions), or wider if dense
            if number in self._halved_after:
                x = halve(x)
        return self.head(average(x))  # (batch, num_outputs)
