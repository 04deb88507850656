"""Initializations of whole modules: `initialize_`, and a class for each option of `conf/init/`.

Every class but `Default` fills the weights of linear, convolutional, recurrent and attention layers, gate by
gate where gates are stacked, and zeroes biases, but for the forget gate's. Norms, embeddings, parameters of
fewer than two axes and parameters not named weight… are left alone.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from stabletrain.errors import require_choice, require_range
from stabletrain.network import fill
from stabletrain.network.blocks import Block, find_biases, find_blocks
from stabletrain.network.meanfield import second_moment_gain

Activation = Callable[[Tensor], Tensor]

# Gers et al. 2000; Jozefowicz et al. 2015, section 2.2: with 1 an LSTM can remember from the first step on.
FORGET_BIAS = 1.0


class Initialization(ABC):
    """Initializes a module in place, reproducibly from torch's global seed."""

    @abstractmethod
    def __call__(self, module: nn.Module, *, activation: Activation | None = None) -> nn.Module:
        """Initialize `module` and return it.

        Args:
            module: Any module.
            activation: What follows the weights; decides the gain where none was given. None for unknown.
        """


class Default(Initialization):
    """Leaves every module as its constructor made it (in torch: U(±1/√fan_in) for linear layers)."""

    def __call__(self, module: nn.Module, *, activation: Activation | None = None) -> nn.Module:
        """Return `module` untouched."""
        return module


class WeightRule(Initialization):
    """Fills every weight by one rule and zeroes the biases."""

    @abstractmethod
    def fill_(self, block: Block, activation: Activation | None) -> None:
        """Fill one weight in place."""

    def __call__(self, module: nn.Module, *, activation: Activation | None = None) -> nn.Module:
        """Fill the weights of `module` and return it."""
        for block in find_blocks(module):
            if block.weight.numel():
                self.fill_(block, activation)
        reset_biases_(module)
        return module


class Normal(WeightRule):
    """W ~ N(0, std²) whatever the fans.

    Args:
        std: Standard deviation, from 0. 0.01 as in AlexNet.

    References:
        Krizhevsky et al. 2012, ImageNet Classification with Deep Convolutional Neural Networks, section 5.
    """

    def __init__(self, std: float = 0.01) -> None:
        self.std = require_range("std", std, 0.0)

    def fill_(self, block: Block, activation: Activation | None) -> None:
        """Fill one weight in place."""
        fill.normal_(block.weight, self.std)


class Xavier(WeightRule):
    """See `fill.xavier_`.

    Args:
        distribution: `uniform` (the paper's) or `normal`.
        gain: Above 0; None for the paper's 1, whatever the activation.
    """

    def __init__(self, distribution: str = "uniform", gain: float | None = None) -> None:
        self.distribution = require_choice("distribution", distribution, fill.DISTRIBUTIONS)
        self.gain = 1.0 if gain is None else require_range("gain", gain, 0.0, open_minimum=True)

    def fill_(self, block: Block, activation: Activation | None) -> None:
        """Fill one weight in place."""
        fill.xavier_(block.weight, self.gain, self.distribution)


class He(WeightRule):
    """See `fill.he_`; the gain is He's for rectifiers and unknown activations, else that of second moments.

    Args:
        distribution: `normal` (the paper's) or `uniform`.
        mode: `fan_in` or `fan_out`.
    """

    def __init__(self, distribution: str = "normal", mode: str = "fan_in") -> None:
        self.distribution = require_choice("distribution", distribution, fill.DISTRIBUTIONS)
        self.mode = require_choice("mode", mode, ("fan_in", "fan_out"))

    def fill_(self, block: Block, activation: Activation | None) -> None:
        """Fill one weight in place."""
        gain = find_rectifier_gain(activation) or find_gain(block, activation)
        fill.he_(block.weight, gain, self.distribution, self.mode)


class LeCun(WeightRule):
    """See `fill.lecun_`.

    Args:
        distribution: `normal` or `uniform`.
    """

    def __init__(self, distribution: str = "normal") -> None:
        self.distribution = require_choice("distribution", distribution, fill.DISTRIBUTIONS)

    def fill_(self, block: Block, activation: Activation | None) -> None:
        """Fill one weight in place."""
        fill.lecun_(block.weight, self.distribution)


class Orthogonal(WeightRule):
    """See `fill.orthogonal_`.

    Args:
        gain: Above 0; None for that of `find_gain`.
    """

    def __init__(self, gain: float | None = None) -> None:
        self.gain = None if gain is None else require_range("gain", gain, 0.0, open_minimum=True)

    def fill_(self, block: Block, activation: Activation | None) -> None:
        """Fill one weight in place."""
        fill.orthogonal_(block.weight, find_gain(block, activation) if self.gain is None else self.gain)


class Identity(WeightRule):
    """Identity from step to step and from layer to layer; N(0, input_std²) from inputs into recurrent layers.

    Args:
        gain: Entries on the diagonal, above 0.
        input_std: Of weights from a recurrent layer's inputs, above 0; 0.001 in the paper, section 4.

    References:
        Le et al. 2015, A Simple Way to Initialize Recurrent Networks of Rectified Linear Units (IRNN).
    """

    def __init__(self, gain: float = 1.0, input_std: float = 0.001) -> None:
        self.gain = require_range("gain", gain, 0.0, open_minimum=True)
        self.input_std = require_range("input_std", input_std, 0.0, open_minimum=True)

    def fill_(self, block: Block, activation: Activation | None) -> None:
        """Fill one weight in place."""
        if block.recurrent and block.role == "input":
            fill.normal_(block.weight, self.input_std)
        else:
            fill.identity_(block.weight, self.gain)


INITIALIZATIONS: dict[str, type[Initialization]] = {
    "default": Default,
    "normal": Normal,
    "xavier": Xavier,
    "he": He,
    "lecun": LeCun,
    "orthogonal": Orthogonal,
    "identity": Identity,
}


def initialize_(
    module: nn.Module, init: str | Initialization = "orthogonal", *, activation: Activation | None = None
) -> nn.Module:
    """Initialize any module in place and return it.

    Args:
        module: Any module: linear, convolutional, recurrent, attention layers, alone or nested.
        init: A name of `INITIALIZATIONS`, or an instance, which carries its own numbers.
        activation: What follows the weights, elementwise on tensors (`torch.nn.ReLU()`); decides the gain.

    Raises:
        RequestError: The name is unknown, or a lazy module has not seen its first batch.

    Example:
        >>> model = initialize_(nn.LSTM(8, 16), "orthogonal")
    """
    if isinstance(init, str):
        init = INITIALIZATIONS[require_choice("init", init, INITIALIZATIONS)]()
    return init(module, activation=activation)


def find_rectifier_gain(activation: Activation | None) -> float | None:
    """Return √(2 / (1 + a²)) for ReLU (a = 0), leaky ReLU and PReLU, √2 for unknown, None for any other."""
    if activation is None or isinstance(activation, nn.ReLU) or activation in (torch.relu, nn.functional.relu):
        return math.sqrt(2.0)  # He et al. 2015, eq. 10
    if isinstance(activation, nn.LeakyReLU):
        return math.sqrt(2.0 / (1.0 + activation.negative_slope**2))  # eq. 15
    if isinstance(activation, nn.PReLU):
        return math.sqrt(2.0 / (1.0 + float(activation.weight.detach().mean()) ** 2))
    return None


def find_gain(block: Block, activation: Activation | None) -> float:
    """Return the activation's second-moment gain, and 1 where it is unknown or would compound.

    Weights from step to step keep 1: the same matrix acts at every step, and a gain of 1.6 is 1.6^T after T of
    them. So do those of gated cells, which pass through sigmoids.
    """
    gated = block.recurrent and block.num_stacked > 1
    if activation is None or block.role == "hidden" or gated:
        return 1.0
    return second_moment_gain(activation)


@torch.no_grad()
def reset_biases_(module: nn.Module) -> nn.Module:
    """Zero all biases in place; the forget gates of LSTMs get 1, in one of torch's two bias vectors."""
    for owner, name, bias in find_biases(module):
        bias.zero_()
        is_lstm = isinstance(owner, nn.LSTMCell) or (isinstance(owner, nn.RNNBase) and owner.mode == "LSTM")
        if is_lstm and name.startswith("bias_ih"):
            bias.chunk(4)[1].fill_(FORGET_BIAS)  # torch stacks i f g o
    return module
