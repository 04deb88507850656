"""Stochastic depth: whole branches are dropped during training."""

from __future__ import annotations

from torch import Tensor, nn

from stabletrain.errors import RequestError, require_range
from stabletrain.network.residual import Residual


class DropBranch(nn.Module):
    """y = x · b / (1 − rate) in training mode, with b ~ Bernoulli(1 − rate) per example; y = x in evaluation mode.

    The paper scales by 1 − rate in evaluation mode instead; the expectation is the same.

    Args:
        rate: Fraction of examples whose branch is dropped, from 0 to below 1.

    Raises:
        RequestError: `rate` is out of its range.

    References:
        Huang et al. 2016, Deep Networks with Stochastic Depth, eq. 2 and 5.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = require_range("stochastic_depth", rate, 0.0, 1.0, open_maximum=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (batch, …) to the same shape."""
        if not self.training or self.rate == 0:
            return x
        kept = x.new_empty(x.size(0), *[1] * (x.dim() - 1)).bernoulli_(1.0 - self.rate)
        return x * kept / (1.0 - self.rate)

    def extra_repr(self) -> str:
        """Show the rate in `print(model)`."""
        return f"{self.rate:.3g}"


def branch_rates(num_branches: int, last: float) -> list[float]:
    """Return the drop rate of each branch, which increases linearly with depth up to `last`.

    References:
        Huang et al. 2016, eq. 4 (p_l = 1 − l/L · (1 − p_L); 0.5 for the last branch in the paper).
    """
    return [last * branch / num_branches for branch in range(1, num_branches + 1)]


def require_branches(stochastic_depth: float, residual: Residual) -> None:
    """Check the rate, and that a layer without its branch still passes on its input.

    Raises:
        RequestError: The rate is out of its range, or above 0 with a residual that is not additive.
    """
    require_range("stochastic_depth", stochastic_depth, 0.0, 1.0, open_maximum=True)
    if stochastic_depth > 0 and not residual.is_additive:
        raise RequestError(
            "Stochastic depth drops branches, and this model has no skip around them.",
            key="stochastic_depth",
            found=f"{stochastic_depth} with {type(residual).__name__}",
            allowed="0, or a residual that adds: add, scaled, rezero, layerscale, deepnorm",
            closest="0.0",
            command="residual=add",
        )
