"""Initializations of whole modules: `initialize_`, and a class for each option of `conf/init/`.

Every class but `Default` fills the weights of linear, convolutional, recurrent and attention layers, gate by
gate where gates are stacked, and zeroes biases, but for the forget gate's. Norms, embeddings, parameters of
fewer than two axes and parameters not named weight… are left alone.
"""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn

from stabletrain.errors import RequestError, closest_name, require_choice
from stabletrain.network.initialization.base import Activation, Inputs
from stabletrain.network.initialization.base import Initialization as Initialization
from stabletrain.network.initialization.branch_scaling import DepthScaled as DepthScaled
from stabletrain.network.initialization.branch_scaling import Fixup as Fixup
from stabletrain.network.initialization.chrono import Chrono as Chrono
from stabletrain.network.initialization.critical import Critical as Critical
from stabletrain.network.initialization.lsuv import LSUV as LSUV
from stabletrain.network.initialization.orthogonal import Identity as Identity
from stabletrain.network.initialization.orthogonal import Orthogonal as Orthogonal
from stabletrain.network.initialization.variance_scaling import Default as Default
from stabletrain.network.initialization.variance_scaling import He as He
from stabletrain.network.initialization.variance_scaling import LeCun as LeCun
from stabletrain.network.initialization.variance_scaling import Normal as Normal
from stabletrain.network.initialization.variance_scaling import Xavier as Xavier

INITIALIZATIONS: dict[str, type[Initialization]] = {
    "default": Default,
    "normal": Normal,
    "xavier": Xavier,
    "he": He,
    "lecun": LeCun,
    "orthogonal": Orthogonal,
    "identity": Identity,
    "lsuv": LSUV,
    "critical": Critical,
    "depth_scaled": DepthScaled,
    "fixup": Fixup,
    "chrono": Chrono,
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
        module: Any module: linear, convolutional, recurrent, attention layers, alone or nested.
        init: A name of `INITIALIZATIONS`, or an instance, which carries its own numbers.
        activation: What follows the weights, elementwise on tensors (`torch.nn.ReLU()`); decides the gain.
        inputs: A batch for `module`, for what measures (`lsuv`): a tensor, a sequence of positional arguments, or a
            mapping of named ones.
        **options: Of the initialization named, such as `std`.

    Raises:
        RequestError: The name or an option is unknown, a number is out of its range, the initialization does not
            fit the module, or a lazy module has not seen its first batch.

    Example:
        >>> model = initialize_(nn.LSTM(8, 16), "orthogonal")
        >>> model = initialize_(nn.Linear(8, 16), "normal", std=0.02)
    """
    if isinstance(init, str):
        chosen = INITIALIZATIONS[require_choice("init", init, INITIALIZATIONS)]
        _require_options(init, options, list(inspect.signature(chosen).parameters))
        init = chosen(**options)
    else:
        _require_options(type(init).__name__, options, [])
    return init(module, activation=activation, inputs=inputs)


def _require_options(init: str, options: dict[str, Any], allowed: list[str]) -> None:
    for name, value in options.items():
        if name not in allowed:
            raise RequestError(
                f"init {init!r} has no option {name!r}.",
                key=name,
                found=value,
                allowed=", ".join(allowed) or "no options",
                closest=closest_name(name, allowed),
            )
