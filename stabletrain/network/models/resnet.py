"""Convolutional residual networks, with the activation after the join or before the weights."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from stabletrain.errors import require_choice
from stabletrain.network.models.convolution import average, build_convolution, to_channels
from stabletrain.network.models.model_parts import Parts, require_shape
from stabletrain.network.normalization import BatchNorm, build_norm
from stabletrain.network.residual import AddResidual, Branch, NoResidual, build_residual, fit_residuals_
from stabletrain.network.residual.stochastic_depth import DropBranch, branch_rates, require_branches

ORDERS = ("post", "pre")
_NUM_STAGES = 3  # He et al. 2016, Deep Residual Learning, section 4.2: three stages, each twice as wide


class ResidualBlock(nn.Module):
    """Two convolutions and the skip around them.

        post: y = φ(residual(S x, N₂(W₂ ∗ φ(N₁(W₁ ∗ x)))))
        pre:  y = residual(S x, W₂ ∗ φ(N₂(W₁ ∗ φ(N₁(x)))))

    S is the identity, or a 1-wide convolution where the shape changes and the skip is used.

    Args:
        num_inputs: Number of input channels.
        width: Number of output channels.
        stride: Stride of the first convolution and of S.
        parts: Activation, norm and residual.
        form: `image` or `sequence`.
        order: Whether norm and activation come after the weights (`post`) or before (`pre`).
        drop_rate: Fraction of examples whose branch is dropped in training.

    References:
        post: He et al. 2016, Deep Residual Learning, eq. 1 and 2; pre: He et al. 2016, Identity Mappings, figure 4e.
    """

    def __init__(
        self,
        num_inputs: int,
        width: int,
        stride: int,
        parts: Parts,
        form: str,
        order: str,
        drop_rate: float,
    ) -> None:
        super().__init__()
        self.order = order
        self.residual = build_residual(parts.residual, width, axis=1)
        is_plain = isinstance(self.residual, NoResidual) or (num_inputs == width and stride == 1)
        self.conv1 = build_convolution(form, num_inputs, width, stride=stride)
        self.norm1 = build_norm(parts.norm, num_inputs if order == "pre" else width, "channels")
        self.activation1 = parts.activation()
        self.conv2 = build_convolution(form, width, width)
        self.norm2 = build_norm(parts.norm, width, "channels")
        self.activation2 = parts.activation()
        self.drop_branch = DropBranch(drop_rate)
        self.shortcut = nn.Identity() if is_plain else build_convolution(form, num_inputs, width, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (batch, num_inputs, *positions) to (batch, width, *positions / stride)."""
        if self.order == "pre":
            branch = self.conv1(self.activation1(self.norm1(x)))
            branch = self.conv2(self.activation2(self.norm2(branch)))
            return self.residual(self.shortcut(x), self.drop_branch(branch))
        branch = self.activation1(self.norm1(self.conv1(x)))
        branch = self.norm2(self.conv2(branch))
        return self.activation2(self.residual(self.shortcut(x), self.drop_branch(branch)))

    def branches(self) -> list[Branch]:
        """Return the block's only branch."""
        return [Branch(self.residual, (self.conv1.weight, self.conv2.weight))]


class ResNet(nn.Module):
    """Residual network: a convolution, `depth` blocks of two in three stages, average pooling and a linear head.

    Every stage except the first halves the positions and doubles the channels. Below three blocks there are fewer
    stages.

    Args:
        num_inputs: Channels of an image, or features per time step, from 1.
        num_outputs: Outputs per example, from 1.
        parts: Activation, norm and residual; tanh, batch norm and add by default.
        form: `image`: x is (batch, channels, height, width); `sequence`: x is (batch, time, features).
        depth: Number of blocks, from 1: 2 · depth + 1 convolutions, not counting shortcuts.
        width: Channels of the first stage, from 1.
        order: `post` (norm and activation after the weights) or `pre` (before).
        dropout: Fraction of the averaged channels dropped before the head in training, from 0 to below 1.
        stochastic_depth: Fraction of examples whose last branch is dropped in training, from 0 to below 1; it
            increases linearly with depth up to there.

    Raises:
        RequestError: A number is out of range, or a part does not fit.

    References:
        He et al. 2016, Deep Residual Learning for Image Recognition, section 4.2; He et al. 2016, Identity Mappings
        in Deep Residual Networks, section 4 (`pre`).
    """

    input_form: ClassVar[tuple[str, ...]] = ("image", "sequence")

    def __init__(
        self,
        num_inputs: int,
        num_outputs: int,
        parts: Parts | None = None,
        *,
        form: str = "image",
        depth: int = 3,  # one block per stage
        width: int = 16,  # section 4.2
        order: str = "post",
        dropout: float = 0.0,
        stochastic_depth: float = 0.0,
    ) -> None:
        super().__init__()
        require_shape(num_inputs, num_outputs, depth, width, dropout)
        require_choice("order", order, ORDERS)
        parts = parts or Parts(norm=BatchNorm, residual=AddResidual)
        require_branches(stochastic_depth, parts.residual(width))
        rates = branch_rates(depth, stochastic_depth)
        self.form = form
        self.stem = build_convolution(form, num_inputs, width)
        self.blocks = nn.ModuleList()
        size, last_stage = width, 0
        for block in range(depth):
            stage = block * _NUM_STAGES // depth
            stride, last_stage = (2 if stage > last_stage else 1), stage
            self.blocks.append(ResidualBlock(size, width * 2**stage, stride, parts, form, order, rates[block]))
            size = width * 2**stage
        outer = size if order == "pre" else width  # the norm and activation outside of the blocks
        self.norm = build_norm(parts.norm, outer, "channels")
        self.activation = parts.activation()
        self.order = order
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(size, num_outputs)
        fit_residuals_(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (batch, channels, height, width), or (batch, time, features), to (batch, num_outputs)."""
        x = self.stem(to_channels(x, self.form))  # (batch, width, *positions)
        if self.order == "post":
            x = self.activation(self.norm(x))
        for block in self.blocks:
            x = block(x)  # (batch, channels, *positions)
        if self.order == "pre":
            x = self.activation(self.norm(x))
        return self.head(self.dropout(average(x)))  # (batch, num_outputs)
