"""`initialize_`, and the initializations by name.

Every class but `Default` fills the weights of linear, convolutional, recurrent and attention layers, one gate at a
time where gates are stacked, and zeroes the biases, except for the forget gate. Norms, embeddings, parameters with
fewer than two axes and parameters whose name does not contain `weight` are left unchanged.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from stabletrain.errors import require_choice
from stabletrain.network.activation import Activation
from stabletrain.network.initialization import branch_scaling, chrono, critical, lsuv, orthogonal, variance_scaling
from stabletrain.network.initialization.base import Initialization, Inputs
from stabletrain.signatures import require_options

# The modules that define the classes, in the order of `INITIALIZATIONS`. A class added to one of them is listed too.
_THEMES = (variance_scaling, orthogonal, lsuv, critical, branch_scaling, chrono)

INITIALIZATIONS: dict[str, type[Initialization]] = {
    rule.option: rule
    for theme in _THEMES
    for rule in vars(theme).values()
    if isinstance(rule, type) and issubclass(rule, Initialization) and rule.__module__ == theme.__name__
}


def initialize_(
    module: nn.Module,
    init: str | Initialization = "orthogonal",
    *,
    activation: Activation | None = None,
    inputs: Inputs | None = None,
    **options: Any,
) -> nn.Module:
    """Initialize any module in place and return it.

    Args:
        module: Any module: a single layer, or a network of linear, convolutional, recurrent and attention layers.
        init: A name in `INITIALIZATIONS`, or an instance, which has its own options.
        activation: The elementwise activation that follows the weights, such as `torch.nn.ReLU()`; sets the gain.
        inputs: A batch for `module`, for data-dependent initializations (`lsuv`): a tensor, a sequence of positional
            arguments, or a mapping of keyword arguments.
        **options: Options of the named initialization, such as `std`.

    Returns:
        `module`.

    Raises:
        RequestError: The name or an option is unknown, a number is out of range, the initialization does not fit the
            module, or a lazy module has not seen its first batch.

    Example:
        >>> model = initialize_(nn.LSTM(8, 16), "orthogonal")
        >>> model = initialize_(nn.Linear(8, 16), "normal", std=0.02)
    """
    if isinstance(init, str):
        chosen = INITIALIZATIONS[require_choice("init", init, INITIALIZATIONS)]
        require_options(chosen, options, f"init {init!r}")
        init = chosen(**options)
    else:
        require_options(None, options, f"init {type(init).__name__!r}")
    return init(module, activation=activation, inputs=inputs)
