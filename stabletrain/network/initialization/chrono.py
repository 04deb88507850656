"""Chrono initialization: gate biases set from the range of the dependencies to learn."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from stabletrain.errors import RequestError, require_range
from stabletrain.network.activation import Activation
from stabletrain.network.initialization.base import Initialization, Inputs, first_tensor
from stabletrain.network.initialization.orthogonal import Orthogonal

_GATED = (nn.LSTM, nn.GRU, nn.LSTMCell, nn.GRUCell)


class Chrono(Initialization):
    """Gate biases for dependencies of up to T steps.

        LSTM: b_f ~ ln U(1, T − 1), b_i = −b_f
        GRU:  b_z ~ ln U(1, T − 1)

    A forget gate f gives a memory of 1 / (1 − f) steps, and σ(ln(t − 1)) = 1 − 1 / t. In torch's GRU,
    h = (1 − z) n + z h, z takes the place of f. torch adds two bias vectors; the values go into the one of the inputs,
    and the other is 0. All other biases are 0, and the weights are those of `Orthogonal`.

    Args:
        max_steps: T, the longest dependency in steps, from 2; None for the number of time steps of the inputs.

    Raises:
        RequestError: The module has no gated layer, or neither `max_steps` nor inputs are given.

    References:
        Tallec and Ollivier 2018, Can Recurrent Neural Networks Warp Time?, eq. 16.
    """

    option: ClassVar[str] = "chrono"

    def __init__(self, max_steps: int | None = None) -> None:
        self.max_steps = None if max_steps is None else require_range("max_steps", max_steps, 2)

    def apply_(self, module: nn.Module, activation: Activation | None, inputs: Inputs | None) -> None:
        """Fill the weights of `module` and set the biases of its gates."""
        gated = [owner for owner in module.modules() if _is_gated(owner)]
        if not gated:
            raise RequestError(
                f"chrono sets the biases of gates, and {type(module).__name__} has no LSTM or GRU.",
                key="init",
                found="chrono",
                allowed="chrono with model=lstm or model=gru, or another init",
                closest="orthogonal",
                command="init=orthogonal",
            )
        max_steps = _count_steps(module, inputs) if self.max_steps is None else self.max_steps
        Orthogonal().apply_(module, activation, inputs)
        for owner in gated:
            for name, bias in owner.named_parameters(recurse=False):
                if name.startswith("bias_ih"):
                    _set_gates_(bias.detach(), _is_lstm(owner), max_steps)


def _is_gated(module: nn.Module) -> bool:
    return isinstance(module, _GATED) or (isinstance(module, nn.RNNBase) and module.mode in ("LSTM", "GRU"))


def _is_lstm(module: nn.Module) -> bool:
    return isinstance(module, nn.LSTMCell) or getattr(module, "mode", None) == "LSTM"


def _set_gates_(bias: Tensor, is_lstm: bool, max_steps: int) -> None:
    """Fill one bias vector in place; torch stacks i f g o in an LSTM, and r z n in a GRU."""
    bias.zero_()
    gates = bias.chunk(4 if is_lstm else 3)
    gates[1].uniform_(1.0, max_steps - 1.0).log_()
    if is_lstm:
        gates[0].copy_(-gates[1])


def _count_steps(module: nn.Module, inputs: Inputs | None) -> int:
    """Return the number of time steps of (batch, time, …), or of (time, batch, …) for a lone layer of torch."""
    first = first_tensor(inputs)
    if first is None or first.dim() < 2:
        raise RequestError(
            "chrono needs the number of steps that the network should remember.",
            key="max_steps",
            found=None,
            allowed="an integer from 2, or inputs (batch, time, …) to take it from",
            command="init.max_steps=100",
        )
    time_first = isinstance(module, nn.RNNBase) and not module.batch_first
    return max(first.size(0 if time_first else 1), 2)
