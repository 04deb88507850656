"""Normalization layers with one interface for vectors, sequences, and channels with positions."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from stabletrain.errors import RequestError, require_count, require_range

# vector: (batch, width). sequence: (batch, time, width), or more axes in between. channels: (batch, width, *positions).
Layout = Literal["vector", "sequence", "channels"]

# Cooijmans et al. 2017, section 5.1: 784 steps (sequential MNIST) is the longest sequence they normalize.
MAX_STEPS = 784


class Norm(nn.Module):
    """Base class of the norms.

    Attributes:
        layout: Layout of the input; `vector` unless `build_norm` sets another.
        needs_positions: Whether the statistics are over positions, so that a vector cannot be normalized.
        reads_all_steps: Whether the output at one time step depends on the other steps.
        reads_batch: Whether the output for one example depends on the others.
    """

    layout: Layout = "vector"
    needs_positions: ClassVar[bool] = False
    reads_all_steps: ClassVar[bool] = False
    reads_batch: ClassVar[bool] = False


class NoNorm(Norm):
    """y = x.

    Args:
        width: Size of the normalized axis.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        """Return x."""
        return x


class BatchNorm(nn.BatchNorm1d, Norm):
    """y = γ (x − mean) / √(variance + eps) + β, with statistics per unit over the batch and all positions.

    Args:
        width: Number of units.
        eps: Added to the variance, above 0 (default as in torch).
        momentum: Weight of the newest batch in the running statistics, 0 to 1 (default as in torch).
        max_steps: In recurrent networks, the number of time steps with their own statistics, from 1; later steps use
            those of the last. 784 as in sequential MNIST.

    References:
        Ioffe and Szegedy 2015, Batch Normalization, algorithm 1 and section 3.2 (convolutions).
        Recurrent: see `StepBatchNorm`.
    """

    reads_all_steps: ClassVar[bool] = True  # during training the statistics are over all steps
    reads_batch: ClassVar[bool] = True

    def __init__(self, width: int, eps: float = 1e-5, momentum: float = 0.1, max_steps: int = MAX_STEPS) -> None:
        require_range("momentum", momentum, 0.0, 1.0)
        super().__init__(width, eps=require_range("eps", eps, 0.0, open_minimum=True), momentum=momentum)
        self.max_steps: int = require_count("max_steps", max_steps)

    def forward(self, input: Tensor) -> Tensor:
        """Normalize a tensor of this norm's `layout`."""
        if self.layout == "channels":
            return super().forward(input.flatten(2) if input.dim() > 2 else input).reshape(input.shape)
        return super().forward(input.flatten(0, -2)).reshape(input.shape)


class LayerNorm(nn.LayerNorm, Norm):
    """y = γ (x − mean) / √(variance + eps) + β, with statistics per example over the units.

    In a sequence, each step is normalized separately; channels are normalized over all positions as well.

    Args:
        width: Number of units.
        eps: Added to the variance, above 0 (default as in torch).

    References:
        Ba et al. 2016, Layer Normalization, eq. 3 and 4; for channels as in Wu and He 2018, eq. 4.
    """

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__(width, eps=require_range("eps", eps, 0.0, open_minimum=True))

    def forward(self, input: Tensor) -> Tensor:
        """Normalize a tensor of this norm's `layout`."""
        if self.layout == "channels":
            return F.group_norm(input, 1, self.weight, self.bias, self.eps)
        return super().forward(input)


class RMSNorm(nn.RMSNorm, Norm):
    """y = γ x / √(mean(x²) + eps), with the mean per example over the units; for channels, over all positions as well.

    Args:
        width: Number of units.
        eps: Added to the mean square, above 0. 1e-5 as in Llama 2; with torch's default, the machine epsilon, the
            gradient grows 2,900-fold where x is 0, as the initial hidden state of a recurrent network is.

    References:
        Zhang and Sennrich 2019, Root Mean Square Layer Normalization, eq. 4.
    """

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__(width, eps=require_range("eps", eps, 0.0, open_minimum=True))

    def forward(self, x: Tensor) -> Tensor:
        """Normalize a tensor of this norm's `layout`."""
        if self.layout != "channels":
            return super().forward(x)
        normalized = F.rms_norm(x, x.shape[1:], None, self.eps)  # in float32 for half precision, whose squares overflow
        return normalized * self.weight.view(-1, *[1] * (x.dim() - 2))


class GroupNorm(nn.GroupNorm, Norm):
    """Layer norm within each of `num_groups` equal groups of units.

    Args:
        width: Number of units; a multiple of `num_groups`.
        num_groups: Number of groups, from 1. A group has at least two units: the output for a single one is β. 4
            makes groups of 16 at the default width of 64, the best size in table 3.
        eps: Added to the variance, above 0 (default as in torch).

    Raises:
        RequestError: `num_groups` does not divide the width, or leaves groups of one unit.

    References:
        Wu and He 2018, Group Normalization, eq. 7.
    """

    def __init__(self, width: int, num_groups: int = 4, eps: float = 1e-5) -> None:
        require_count("num_groups", num_groups)
        if width % num_groups or width < 2 * num_groups:
            raise RequestError(
                "num_groups does not divide the width into groups of two units or more.",
                key="num_groups",
                found=num_groups,
                allowed=f"a divisor of {width} below it",
            )
        super().__init__(num_groups, width, eps=require_range("eps", eps, 0.0, open_minimum=True))

    def forward(self, input: Tensor) -> Tensor:
        """Normalize a tensor of this norm's `layout`; in a sequence, each step separately."""
        if self.layout == "channels":
            return super().forward(input)
        return super().forward(input.flatten(0, -2)).reshape(input.shape)


class InstanceNorm(nn.InstanceNorm1d, Norm):
    """y = γ (x − mean) / √(variance + eps) + β, with statistics per example and unit over the positions.

    Vectors and single steps of a recurrent cell have no positions and cannot be normalized.

    Args:
        width: Number of units.
        eps: Added to the variance, above 0 (default as in torch).

    References:
        Ulyanov et al. 2016, Instance Normalization: The Missing Ingredient for Fast Stylization, section 2.
    """

    needs_positions: ClassVar[bool] = True
    reads_all_steps: ClassVar[bool] = True

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__(width, eps=require_range("eps", eps, 0.0, open_minimum=True), affine=True)

    def forward(self, input: Tensor) -> Tensor:
        """Normalize a tensor of this norm's `layout`."""
        if input.dim() < 3:
            raise _unfit(self)
        moved = input.movedim(-1, 1) if self.layout == "sequence" else input  # (batch, width, *positions)
        normalized = super().forward(moved.flatten(2)).reshape(moved.shape)
        return (
            normalized.movedim(1, -1).contiguous() if self.layout == "sequence" else normalized
        )  # for `view` in GPT-2


class WeightNorm(NoNorm):
    """W = g V / ‖V‖, per row of every weight; as a module in the network it is the identity.

    The weights are reparametrized by `surgery.reparametrize_`, after they are initialized.

    Args:
        width: Size of the axis that other norms would normalize.

    References:
        Salimans and Kingma 2016, Weight Normalization, eq. 2.
    """


class SpectralNorm(NoNorm):
    """W = W̄ / σ(W̄), where σ is the largest singular value, by power iteration: every layer is 1-Lipschitz.

    As a module in the network it is the identity. The weights are reparametrized by `surgery.reparametrize_`, after
    they are initialized.

    Args:
        width: Size of the axis that other norms would normalize.

    References:
        Miyato et al. 2018, Spectral Normalization for Generative Adversarial Networks, eq. 8 and algorithm 1.
    """


class _MovedAxis(nn.Module):
    """Applies a norm that acts on the last axis to tensors whose width is axis 1."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        """Normalize x (batch, width, *positions)."""
        return self.norm(x.movedim(1, -1)).movedim(-1, 1)


def build_norm(norm: Callable[[int], nn.Module], width: int, layout: Layout) -> nn.Module:
    """Build the norm for one place in a network.

    Args:
        norm: Called with the width. A norm that is not a subclass of `Norm` must act on the last axis.
        width: Size of the normalized axis.
        layout: Layout of the tensors at that place.

    Raises:
        RequestError: The norm needs positions, and the layout has none.
    """
    built = norm(width)
    if not isinstance(built, Norm):
        return _MovedAxis(built) if layout == "channels" else built
    if built.needs_positions and layout == "vector":
        raise _unfit(built)
    built.layout = layout
    return built


def _unfit(norm: nn.Module) -> RequestError:
    return RequestError(
        f"{type(norm).__name__} takes its statistics over positions, and the input here has none.",
        key="norm",
        found=type(norm).__name__,
        allowed="a norm over units or over the batch: batch, layer, group, rms, weight, spectral",
        closest="layer",
        command="norm=layer",
    )


NORMS: dict[str, type[Norm]] = {
    "none": NoNorm,
    "batch": BatchNorm,
    "layer": LayerNorm,
    "group": GroupNorm,
    "instance": InstanceNorm,
    "rms": RMSNorm,
    "weight": WeightNorm,
    "spectral": SpectralNorm,
}
