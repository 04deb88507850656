"""Initializations that sample every entry of a weight independently, and `default`, which samples nothing."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from stabletrain.errors import require_choice, require_range
from stabletrain.network.activation import Activation
from stabletrain.network.initialization import fill
from stabletrain.network.initialization.base import Initialization, Inputs, WeightRule, find_gain, find_rectifier_gain
from stabletrain.network.introspection.weights import Block


class Default(Initialization):
    """Keeps the weights of the modules' constructors (in torch U(±1/√fan_in) for linear layers).

    DeepNorm's β is still multiplied in, at every call: call it once on a network with such residuals.
    """

    option: ClassVar[str] = "default"

    def apply_(self, module: nn.Module, activation: Activation | None, inputs: Inputs | None) -> None:
        """Leave `module` unchanged."""


class Normal(WeightRule):
    """W ~ N(0, std²), whatever the fan-in and fan-out.

    Args:
        std: Standard deviation, from 0; 0.01 in AlexNet.

    References:
        Krizhevsky et al. 2012, ImageNet Classification with Deep Convolutional Neural Networks, section 5.
    """

    option: ClassVar[str] = "normal"

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

    option: ClassVar[str] = "xavier"

    def __init__(self, distribution: str = "uniform", gain: float | None = None) -> None:
        self.distribution = require_choice("distribution", distribution, fill.DISTRIBUTIONS)
        self.gain = 1.0 if gain is None else require_range("gain", gain, 0.0, open_minimum=True)

    def fill_(self, block: Block, activation: Activation | None) -> None:
        """Fill one weight in place."""
        fill.xavier_(block.weight, self.gain, self.distribution)


class He(WeightRule):
    """See `fill.he_`; the gain is the paper's for ReLU-like and unknown activations, else the second-moment gain.

    Args:
        distribution: `normal` (the paper's) or `uniform`.
        mode: `fan_in` or `fan_out`.
    """

    option: ClassVar[str] = "he"

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

    option: ClassVar[str] = "lecun"

    def __init__(self, distribution: str = "normal") -> None:
        self.distribution = require_choice("distribution", distribution, fill.DISTRIBUTIONS)

    def fill_(self, block: Block, activation: Activation | None) -> None:
        """Fill one weight in place."""
        fill.lecun_(block.weight, self.distribution)
