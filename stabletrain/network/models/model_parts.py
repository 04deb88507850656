"""What every family is composed of: which activation, which norm, which residual."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from stabletrain.errors import require_count, require_range
from stabletrain.network.normalization import NoNorm
from stabletrain.network.residual import NoResidual, Residual


@dataclass(frozen=True)
class Parts:
    """The parts a family asks for, one fresh module per place.

    A factory rather than a module, because parts may carry parameters (PReLU, layer norm, ReZero) that
    no two layers share: `functools.partial(torch.nn.ELU, alpha=1.0)`, or simply the class.

    Args:
        activation: Called without arguments; the module maps a tensor to one of the same shape.
        norm: Called with the width; the module normalizes a tensor whose last axis has that width, and ours
            any layout (`normalization.build_norm`).
        residual: Called with the width; the module joins `(skip, branch)`, both of that width.
    """

    activation: Callable[[], nn.Module] = nn.Tanh
    norm: Callable[[int], nn.Module] = NoNorm
    residual: Callable[[int], Residual] = NoResidual


OUTPUTS = ("one", "each_step", "next_step")  # per example; per step; per step, blind to the steps that follow


def require_shape(num_inputs: int, num_outputs: int, depth: int, width: int, dropout: float) -> None:
    """Check the arguments that every family has; raise RequestError for the first that is out of range."""
    require_count("num_inputs", num_inputs)
    require_count("num_outputs", num_outputs)
    require_count("depth", depth)
    require_count("width", width)
    require_range("dropout", dropout, 0.0, 1.0, open_maximum=True)
