"""Ways to join a layer's output (the branch) with what went into it (the skip)."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from stabletrain.errors import require_range


class Residual(nn.Module, ABC):
    """Joins skip x and branch F(x), tensors of equal shape with `width` on the last axis.

    Args:
        width: Size of the last axis; for joins that hold weights.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    @abstractmethod
    def forward(self, skip: Tensor, branch: Tensor) -> Tensor:
        """Return the joined tensor, shaped as both inputs."""

    def extra_repr(self) -> str:
        """Show the width in `print(model)`."""
        return f"{self.width}"


class NoResidual(Residual):
    """y = F(x): a plain network.

    Args:
        width: Size of the last axis.
    """

    def forward(self, skip: Tensor, branch: Tensor) -> Tensor:
        """Return the branch alone."""
        return branch


class AddResidual(Residual):
    """y = x + F(x).

    Args:
        width: Size of the last axis.

    References:
        He et al. 2016, Deep Residual Learning for Image Recognition, eq. 1.
    """

    def forward(self, skip: Tensor, branch: Tensor) -> Tensor:
        """Return skip + branch."""
        return skip + branch


class ScaledResidual(Residual):
    """y = x + factor · F(x), with a factor that is not learned.

    Args:
        width: Size of the last axis.
        factor: Scale of the branch, above 0. The source found 0.1 to 0.3 to stabilize training; 0.1 is also
            what EDSR takes (Lim et al. 2017, section 3.1).

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
    """y = x + α · F(x), with a learned α that starts at 0, so that every layer starts as the identity.

    Args:
        width: Size of the last axis.

    References:
        Bachlechner et al. 2020, ReZero is All You Need, eq. 1 (α = 0 at the start).
    """

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.alpha = nn.Parameter(torch.zeros(()))

    def forward(self, skip: Tensor, branch: Tensor) -> Tensor:
        """Return skip + α · branch."""
        return skip + self.alpha * branch
