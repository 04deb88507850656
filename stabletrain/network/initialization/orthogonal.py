"""Structured initializations, which fill a weight matrix as a whole: orthogonal and identity."""

from __future__ import annotations

from typing import ClassVar

from torch.nn.modules.conv import _ConvNd

from stabletrain.errors import require_choice, require_range
from stabletrain.network.activation import Activation
from stabletrain.network.initialization import fill
from stabletrain.network.initialization.base import WeightRule, find_gain
from stabletrain.network.introspection.weights import Block


class Orthogonal(WeightRule):
    """See `fill.orthogonal_`.

    Args:
        gain: Above 0; None for the one from `find_gain`.
        kernel: `flat` or `delta`. Strided kernels are always flat: a delta kernel would skip the positions in between.
    """

    option: ClassVar[str] = "orthogonal"

    def __init__(self, gain: float | None = None, kernel: str = "flat") -> None:
        self.gain = None if gain is None else require_range("gain", gain, 0.0, open_minimum=True)
        self.kernel = require_choice("kernel", kernel, fill.KERNELS)

    def fill_(self, block: Block, activation: Activation | None) -> None:
        """Fill one weight in place."""
        gain = find_gain(block, activation) if self.gain is None else self.gain
        fill.orthogonal_(block.weight, gain, "flat" if is_strided(block) else self.kernel)


def is_strided(block: Block) -> bool:
    """Return whether the block is the kernel of a strided convolution."""
    return isinstance(block.owner, _ConvNd) and any(stride > 1 for stride in block.owner.stride)


class Identity(WeightRule):
    """Identity matrices, except for the input weights of recurrent layers: those are N(0, input_std²).

    Args:
        gain: Value on the diagonal, above 0.
        input_std: Standard deviation of the input weights of recurrent layers, above 0; 0.001 in the paper, section 4.

    References:
        Le et al. 2015, A Simple Way to Initialize Recurrent Networks of Rectified Linear Units (IRNN).
    """

    option: ClassVar[str] = "identity"

    def __init__(self, gain: float = 1.0, input_std: float = 0.001) -> None:
        self.gain = require_range("gain", gain, 0.0, open_minimum=True)
        self.input_std = require_range("input_std", input_std, 0.0, open_minimum=True)

    def fill_(self, block: Block, activation: Activation | None) -> None:
        """Fill one weight in place."""
        if block.recurrent and block.role == "input":
            fill.normal_(block.weight, self.input_std)
        else:
            fill.identity_(block.weight, self.gain)
