"""The one-dimensional densely connected network."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from stabletrain.errors import RequestError, require_count, require_range
from stabletrain.network.models.convolution import average, build_convolution, halve, to_channels
from stabletrain.network.models.model_parts import Parts, require_shape
from stabletrain.network.normalization import BatchNorm, build_norm
from stabletrain.network.residual import DenseResidual, Residual, build_residual


class DenseLayer(nn.Module):
    """y = [x, dropout(W ∗ φ(norm(x)))], which appends `growth` channels to the input.

    Args:
        num_inputs: Number of input channels.
        growth: Number of channels added.
        parts: Activation, norm and residual, which must be dense.
        kernel_size: Size of the kernel, an odd number.
        dropout: Fraction of elements dropped in training, from 0 to below 1.
    """

    def __init__(self, num_inputs: int, growth: int, parts: Parts, kernel_size: int, dropout: float) -> None:
        super().__init__()
        self.norm = build_norm(parts.norm, num_inputs, "channels")
        self.activation = parts.activation()
        self.conv = build_convolution("sequence", num_inputs, growth, kernel_size)
        self.dropout = nn.Dropout(dropout)
        self.residual = require_dense(build_residual(parts.residual, growth, axis=1, may_grow=True))

    def forward(self, x: Tensor) -> Tensor:
        """Map x (batch, num_inputs, time) to (batch, num_inputs + growth, time)."""
        return self.residual(x, self.dropout(self.conv(self.activation(self.norm(x)))))


class Transition(nn.Module):
    """y = halve(W ∗ φ(norm(x))), with a 1-wide convolution that reduces the number of channels.

    Args:
        num_inputs: Number of input channels.
        num_outputs: Number of output channels.
        parts: Activation and norm.
    """

    def __init__(self, num_inputs: int, num_outputs: int, parts: Parts) -> None:
        super().__init__()
        self.norm = build_norm(parts.norm, num_inputs, "channels")
        self.activation = parts.activation()
        self.conv = build_convolution("sequence", num_inputs, num_outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (batch, num_inputs, time) to (batch, num_outputs, time / 2)."""
        return halve(self.conv(self.activation(self.norm(x))))


class DenseNet1d(nn.Module):
    """One-dimensional DenseNet: a convolution, blocks of dense layers with transitions in between, a linear head.

    Args:
        num_inputs: Features per time step, from 1.
        num_outputs: Outputs per example, from 1.
        parts: Activation, norm and residual; ReLU, batch norm and dense by default. The residual must be dense.
        depth: Number of dense layers in total, from 1; the first blocks get the remainder of depth / num_blocks.
        width: Growth rate: channels that each layer adds, from 1. The first convolution has twice as many.
        num_blocks: Number of blocks of dense layers, from 1; capped at `depth`.
        reduction: Fraction of the channels that a transition keeps, above 0 and up to 1.
        kernel_size: Size of the kernels of the dense layers, an odd number from 1.
        dropout: Fraction of elements dropped in every dense layer in training, from 0 to below 1.

    Raises:
        RequestError: A number is out of range, or a part does not fit.

    References:
        Huang et al. 2017, Densely Connected Convolutional Networks, section 3: eq. 2, growth rate (k = 12),
        transitions with compression θ = 0.5, three blocks.
    """

    input_form: ClassVar[str] = "sequence"

    def __init__(
        self,
        num_inputs: int,
        num_outputs: int,
        parts: Parts | None = None,
        *,
        depth: int = 12,
        width: int = 12,
        num_blocks: int = 3,
        reduction: float = 0.5,
        kernel_size: int = 3,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        require_shape(num_inputs, num_outputs, depth, width, dropout)
        num_blocks = min(require_count("num_blocks", num_blocks), depth)
        require_range("reduction", reduction, 0.0, 1.0, open_minimum=True)
        if require_count("kernel_size", kernel_size) % 2 == 0:
            raise RequestError(
                "A kernel of even size has no center.", key="kernel_size", found=kernel_size, allowed="an odd number"
            )
        parts = parts or Parts(nn.ReLU, BatchNorm, DenseResidual)
        size = 2 * width
        self.stem = build_convolution("sequence", num_inputs, size, kernel_size)
        stages: list[nn.Module] = []
        for block in range(num_blocks):
            for _ in range(depth // num_blocks + (block < depth % num_blocks)):
                stages.append(DenseLayer(size, width, parts, kernel_size, dropout))
                size += width
            if block < num_blocks - 1:
                kept = max(1, int(size * reduction))
                stages.append(Transition(size, kept, parts))
                size = kept
        self.stages = nn.ModuleList(stages)
        self.norm = build_norm(parts.norm, size, "channels")
        self.activation = parts.activation()
        self.head = nn.Linear(size, num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (batch, time, num_inputs) to (batch, num_outputs)."""
        x = self.stem(to_channels(x, "sequence"))  # (batch, 2 · width, time)
        for stage in self.stages:
            x = stage(x)  # (batch, channels, time), halved by transitions
        return self.head(average(self.activation(self.norm(x))))  # (batch, num_outputs)


def require_dense(residual: Residual) -> Residual:
    """Return `residual` if it is dense (it widens the signal); raise RequestError otherwise."""
    if residual.join_width(1) == residual.width:
        raise RequestError(
            "The layers of a DenseNet need a residual that concatenates.",
            key="residual",
            found=type(residual).__name__,
            allowed="dense, or another model: cnn, resnet",
            closest="dense",
            command="residual=dense",
        )
    return residual
