"""The parts that every model is composed of: activation, norm and residual."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from stabletrain.errors import require_count, require_range
from stabletrain.network.normalization import NoNorm
from stabletrain.network.residual import NoResidual, Residual


@dataclass(frozen=True)
class Parts:
    """The parts of a model, as factories that make a new module for each place.

    Factories rather than modules, because parts may have parameters (PReLU, layer norm, ReZero) that layers do not
    share. A factory is a class, or for example `functools.partial(torch.nn.ELU, alpha=1.0)`.

    Args:
        activation: Called without arguments; the module maps a tensor to one of the same shape.
        norm: Called with the width; the module normalizes a tensor whose last axis has that width, or any layout if
            it is one of our norms (`normalization.build_norm`).
        residual: Called with the width; the module joins `(skip, branch)`, both of that width.
    """

    activation: Callable[[], nn.Module] = nn.Tanh
    norm: Callable[[int], nn.Module] = NoNorm
    residual: Callable[[int], Residual] = NoResidual


OUTPUTS = ("one", "each_step", "next_step")  # per example; per step; per step, without access to later steps


def require_shape(num_inputs: int, num_outputs: int, depth: int, width: int, dropout: float) -> None:
    """Check the arguments that every model has; raise RequestError for the first that is out of range."""
    require_count("num_inputs", num_inputs)
    require_count("num_outputs", num_outputs)
    require_count("depth", depth)
    require_count("width", width)
    require_range("dropout", dropout, 0.0, 1.0, open_maximum=True)
