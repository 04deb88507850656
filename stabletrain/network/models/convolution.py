"""Functions shared by the convolutional models: kernels over images or sequences, and pooling."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from stabletrain.errors import require_choice

# An axis with fewer positions is not halved: a single position would leave nothing to normalize over.
_MIN_HALVED = 4
FORMS = {"image": 2, "sequence": 1}  # number of axes of positions


def build_convolution(
    form: str, num_inputs: int, num_outputs: int, size: int = 3, stride: int = 1
) -> nn.Conv1d | nn.Conv2d:
    """Build a padded convolution, which keeps the number of positions up to the stride.

    Args:
        form: `image` (2-D) or `sequence` (1-D).
        num_inputs: Number of input channels.
        num_outputs: Number of output channels.
        size: Size of the kernel, an odd number.
        stride: Step of the kernel, in positions.
    """
    kind = nn.Conv2d if FORMS[require_choice("form", form, FORMS)] == 2 else nn.Conv1d
    return kind(num_inputs, num_outputs, size, stride=stride, padding=size // 2)


def to_channels(x: Tensor, form: str) -> Tensor:
    """Move the features of a sequence (batch, time, features) to axis 1, where images have their channels."""
    return x.transpose(1, 2) if form == "sequence" else x


def halve(x: Tensor) -> Tensor:
    """Average neighboring pairs of (batch, channels, *positions) along every axis with four or more positions."""
    window = [2 if size >= _MIN_HALVED else 1 for size in x.shape[2:]]
    return F.avg_pool1d(x, window) if len(window) == 1 else F.avg_pool2d(x, window)


def average(x: Tensor) -> Tensor:
    """Average over all positions: (batch, channels, *positions) to (batch, channels).

    References:
        Lin et al. 2014, Network In Network, section 3.2 (global average pooling).
    """
    return x.flatten(2).mean(dim=-1)
