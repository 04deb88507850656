"""Residual connections: ways to join the output of a layer (the branch) with its input (the skip)."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from stabletrain.errors import RequestError, require_range


class Residual(nn.Module, ABC):
    """Joins skip x and branch F(x), tensors of equal shape with `width` units along one axis.

    Attributes:
        is_additive: Whether y = a x + b F(x). These are the branches that are counted and scaled by depth.
        needs_norm_after: Whether y must be followed by a norm.
        branch_gain: Factor by which an initialization multiplies the weights of the branch.
        axis: The axis of the units in both tensors: the last, or 1 in convolutional families.

    Args:
        width: Size of that axis.
    """

    is_additive: ClassVar[bool] = True
    needs_norm_after: ClassVar[bool] = False
    branch_gain: float = 1.0
    axis: int = -1

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    @abstractmethod
    def forward(self, skip: Tensor, branch: Tensor) -> Tensor:
        """Return the joined tensor."""

    def join_width(self, skip_width: int) -> int:
        """Return the width of the joined tensor."""
        return self.width

    def set_num_branches(self, num_branches: int) -> None:
        """Set the number of additive branches in the network, for joins whose scale depends on it."""

    def extra_repr(self) -> str:
        """Show the width in `print(model)`."""
        return f"{self.width}"

    def _along_width(self, vector: Tensor, like: Tensor) -> Tensor:
        """Reshape a vector (width,) so that it broadcasts against `like` along `axis`."""
        return vector if self.axis == -1 else vector.view(-1, *[1] * (like.dim() - 2))


@dataclass(frozen=True)
class Branch:
    """One residual branch of a network.

    Attributes:
        residual: The join at its end.
        weights: The weights that multiply the signal in the branch, (out, in, …) each, in forward order. For
            attention these are the value and the output projection; for a feed-forward block, both matrices.
    """

    residual: Residual
    weights: tuple[Tensor, ...]


def find_branches(network: nn.Module) -> list[Branch]:
    """Return the additive branches of all modules in `network` that list theirs in a method `branches`."""
    owners: list[Any] = [module for module in network.modules() if names_branches(module)]
    found = [branch for owner in owners for branch in owner.branches() if isinstance(branch, Branch)]
    return [branch for branch in found if branch.residual.is_additive]


def names_branches(module: nn.Module) -> bool:
    """Return whether a module has our method `branches()`, not an unrelated attribute of that name (HRNet's list)."""
    method = getattr(module, "branches", None)
    return inspect.ismethod(method) and not inspect.signature(method).parameters


def build_residual(
    residual: Callable[[int], Residual],
    width: int,
    *,
    axis: int = -1,
    may_grow: bool = False,
    norm_follows: bool = False,
) -> Residual:
    """Build the join for one place in a network.

    Args:
        residual: Called with the width.
        width: Size of the branch along `axis`.
        axis: The axis of the units in the tensors at that place.
        may_grow: Whether the next layer can take more than `width` units.
        norm_follows: Whether the joined tensor is normalized.

    Raises:
        RequestError: The join does not fit there.
    """
    built = residual(width)
    built.axis = axis
    if built.join_width(width) != width and not may_grow:
        raise _unfit(built, "widens the signal at every layer, and the layers of this model have a constant width")
    if built.needs_norm_after and not norm_follows:
        raise _unfit(built, "scales up the skip, and needs a norm after every join to undo that")
    return built


def _unfit(residual: Residual, reason: str) -> RequestError:
    return RequestError(
        f"{type(residual).__name__} {reason}.",
        key="residual",
        found=type(residual).__name__,
        allowed="none, add, scaled, rezero, layerscale, highway; dense in mlp, cnn and densenet1d; deepnorm in a "
        "transformer with model.placement=post",
        closest="add",
        command="residual=add",
    )


def fit_residuals_(network: nn.Module) -> None:
    """Set the number of additive joins in every one of them; called at the end of a model's constructor."""
    joins = [m for m in network.modules() if isinstance(m, Residual) and m.is_additive]
    for join in joins:
        join.set_num_branches(len(joins))


class NoResidual(Residual):
    """y = F(x): a plain network.

    Args:
        width: Size of the axis.
    """

    is_additive: ClassVar[bool] = False

    def forward(self, skip: Tensor, branch: Tensor) -> Tensor:
        """Return the branch alone."""
        return branch


class AddResidual(Residual):
    """y = x + F(x).

    Args:
        width: Size of the axis.

    References:
        He et al. 2016, Deep Residual Learning for Image Recognition, eq. 1.
    """

    def forward(self, skip: Tensor, branch: Tensor) -> Tensor:
        """Return skip + branch."""
        return skip + branch


class ScaledResidual(Residual):
    """y = x + factor · F(x), with a constant factor.

    Args:
        width: Size of the axis.
        factor: Scale of the branch, above 0. The paper found 0.1 to 0.3 to stabilize training; EDSR uses 0.1 too
            (Lim et al. 2017, section 3.1).

    Raises:
        RequestError: `factor` is not above 0.

    References:
        Szegedy et al. 2017, Inception-v4, section 3.3 (scaling of the residuals).
    """

    def __init__(self, width: int, factor: float = 0.1) -> None:
        super().__init__(width)
        self.factor = require_range("factor", factor, 0.0, open_minimum=True)

    def forward(self, skip: Tensor, branch: Tensor) -> Tensor:
        """Return skip + factor · branch."""
        return skip + self.factor * branch

    def extra_repr(self) -> str:
        """Show width and factor in `print(model)`."""
        return f"{self.width}, factor={self.factor}"


class ReZeroResidual(Residual):
    """y = x + α · F(x), with a learned α initialized to 0, so that every layer is the identity at first.

    Args:
        width: Size of the axis.

    References:
        Bachlechner et al. 2020, ReZero is All You Need, eq. 1 (α initialized to 0).
    """

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.alpha = nn.Parameter(torch.zeros(()))

    def forward(self, skip: Tensor, branch: Tensor) -> Tensor:
        """Return skip + α · branch."""
        return skip + self.alpha * branch


class LayerScaleResidual(Residual):
    """y = x + λ ⊙ F(x), with a learned λ for each unit.

    Args:
        width: Size of the axis.
        initial: Initial value of λ, above 0. 1e-5 is for 24 layers (section 3.2), which also gives 0.1 up to 18 layers
            and 1e-6 beyond 24. 1 makes it the multiplier of Fixup (Zhang et al. 2019, section 3.2, rule 3), for each
            unit.

    Raises:
        RequestError: `initial` is not above 0.

    References:
        Touvron et al. 2021, Going Deeper with Image Transformers, eq. 4.
    """

    def __init__(self, width: int, initial: float = 1e-5) -> None:
        super().__init__(width)
        require_range("initial", initial, 0.0, open_minimum=True)
        self.scale = nn.Parameter(torch.full((width,), float(initial)))

    def forward(self, skip: Tensor, branch: Tensor) -> Tensor:
        """Return skip + λ ⊙ branch."""
        return skip + self._along_width(self.scale, branch) * branch


class DeepNormResidual(Residual):
    """y = α x + F(x), followed by a norm; the weights of F are initialized smaller by a factor β.

    With N layers of two branches each, α = (2N)^¼ and β = (8N)^−¼; for B = 2N branches that is B^¼ and (4B)^−¼.

    Args:
        width: Size of the axis.
        alpha: Scale of the skip, above 0; None for B^¼.

    Raises:
        RequestError: `alpha` is not above 0.

    References:
        Wang et al. 2022, DeepNet: Scaling Transformers to 1,000 Layers, figure 2 and table 1 (encoder only).
    """

    needs_norm_after: ClassVar[bool] = True

    def __init__(self, width: int, alpha: float | None = None) -> None:
        super().__init__(width)
        self._is_given = alpha is not None
        self.alpha = 1.0 if alpha is None else require_range("alpha", alpha, 0.0, open_minimum=True)

    def set_num_branches(self, num_branches: int) -> None:
        """Set α and β from the number of branches."""
        if not self._is_given:
            self.alpha = num_branches**0.25
        self.branch_gain = (4 * num_branches) ** -0.25

    def forward(self, skip: Tensor, branch: Tensor) -> Tensor:
        """Return α · skip + branch."""
        return self.alpha * skip + branch

    def extra_repr(self) -> str:
        """Show width and α in `print(model)`."""
        return f"{self.width}, alpha={self.alpha:.4g}"


class HighwayResidual(Residual):
    """y = T(x) ⊙ F(x) + (1 − T(x)) ⊙ x, T(x) = σ(W_T x + b_T + bias).

    The paper initializes b_T to `bias`; here it is a constant of its own and b_T is initialized to 0, so that an
    initialization that zeroes biases does not undo it.

    Args:
        width: Size of the axis.
        bias: Constant bias of the gate. −2 is in the middle of the paper's −1 … −3 (section 2.2): initially a layer
            carries 88 % of its input.

    Raises:
        RequestError: `bias` is not a finite number.

    References:
        Srivastava et al. 2015, Highway Networks, eq. 3.
    """

    is_additive: ClassVar[bool] = False

    def __init__(self, width: int, bias: float = -2.0) -> None:
        super().__init__(width)
        self.bias = require_range("bias", bias)
        self.gate = nn.Linear(width, width)
        nn.init.zeros_(self.gate.bias)

    def forward(self, skip: Tensor, branch: Tensor) -> Tensor:
        """Return T · branch + (1 − T) · skip."""
        gate = torch.sigmoid(self.gate(skip.movedim(self.axis, -1)) + self.bias).movedim(-1, self.axis)
        return skip + gate * (branch - skip)


class DenseResidual(Residual):
    """y = [x, F(x)]: input and output are concatenated, so that the width grows from layer to layer.

    Args:
        width: Units of the branch.

    References:
        Huang et al. 2017, Densely Connected Convolutional Networks, eq. 2.
    """

    is_additive: ClassVar[bool] = False

    def join_width(self, skip_width: int) -> int:
        """Return the sum of both widths."""
        return skip_width + self.width

    def forward(self, skip: Tensor, branch: Tensor) -> Tensor:
        """Return both, concatenated."""
        return torch.cat([skip, branch], dim=self.axis)
