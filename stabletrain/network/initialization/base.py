"""What all initializations share: the interface, the loop over the weights, gains and biases."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from stabletrain.network.activation import Activation
from stabletrain.network.introspection.parametrized import writable_weights
from stabletrain.network.introspection.weights import Block, find_biases, find_blocks
from stabletrain.network.meanfield.gaussian_signal import second_moment_gain
from stabletrain.network.residual import find_branches

Inputs = Tensor | Sequence[Any] | Mapping[str, Any]

# Gers et al. 2000; Jozefowicz et al. 2015, section 2.2: with a bias of 1 an LSTM remembers from the first step.
FORGET_BIAS = 1.0


class Initialization(ABC):
    """Initializes a module in place, reproducibly under torch's global seed.

    Finally, the weights of every residual branch of our models are multiplied by the `branch_gain` of its residual: β
    for DeepNorm, 1 for all others.

    Attributes:
        option: Name of the class in `initialize_` and in `conf/init/`.
    """

    option: ClassVar[str]

    def __call__(
        self, module: nn.Module, *, activation: Activation | None = None, inputs: Inputs | None = None
    ) -> nn.Module:
        """Initialize `module` and return it.

        Args:
            module: Any module.
            activation: The activation that follows the weights; it sets the gain where none was given. None if
                unknown.
            inputs: A batch for `module`: a tensor, a sequence of positional arguments, or a mapping of keyword
                arguments. Used only by data-dependent initializations.
        """
        with writable_weights(module):
            self.apply_(module, activation, inputs)
            for branch in find_branches(module):
                for weight in branch.weights if branch.residual.branch_gain != 1 else ():
                    weight.detach().mul_(branch.residual.branch_gain)  # Wang et al. 2022, figure 2
        return module

    @abstractmethod
    def apply_(self, module: nn.Module, activation: Activation | None, inputs: Inputs | None) -> None:
        """Initialize `module` in place, without gradients."""


class WeightRule(Initialization):
    """Fills every weight by the same rule and zeroes the biases."""

    @abstractmethod
    def fill_(self, block: Block, activation: Activation | None) -> None:
        """Fill one weight in place."""

    def apply_(self, module: nn.Module, activation: Activation | None, inputs: Inputs | None) -> None:
        """Fill the weights of `module` one by one, and zero its biases."""
        for block in find_blocks(module):
            if block.weight.numel():
                self.fill_(block, activation)
        reset_biases_(module)


def first_tensor(inputs: Inputs | None) -> Tensor | None:
    """Return the first tensor in `inputs`, None if it has none."""
    if isinstance(inputs, Tensor):
        return inputs
    values = inputs.values() if isinstance(inputs, Mapping) else inputs or ()
    return next((value for value in values if isinstance(value, Tensor)), None)


def find_rectifier_gain(activation: Activation | None) -> float | None:
    """Return √(2 / (1 + a²)) for ReLU (a = 0), leaky ReLU and PReLU, √2 if unknown, None for other activations."""
    if activation is None or isinstance(activation, nn.ReLU) or activation in (torch.relu, nn.functional.relu):
        return math.sqrt(2.0)  # He et al. 2015, eq. 10
    if isinstance(activation, nn.LeakyReLU):
        return math.sqrt(2.0 / (1.0 + activation.negative_slope**2))  # eq. 15
    if isinstance(activation, nn.PReLU):
        return math.sqrt(2.0 / (1.0 + float(activation.weight.detach().mean()) ** 2))
    return None


def find_gain(block: Block, activation: Activation | None) -> float:
    """Return the activation's second-moment gain, or 1 where it is unknown or would compound.

    Hidden-to-hidden weights get 1: the same matrix is applied at every step, and a gain of 1.6 becomes 1.6^T after T
    steps. So do all weights of gated cells, whose outputs pass through sigmoids.
    """
    gated = block.recurrent and block.num_stacked > 1
    if activation is None or block.role == "hidden" or gated:
        return 1.0
    return second_moment_gain(activation)


@torch.no_grad()
def reset_biases_(module: nn.Module) -> nn.Module:
    """Zero all biases in place, but set the forget gates of LSTMs to 1, in one of torch's two bias vectors."""
    for owner, name, bias in find_biases(module):
        bias.zero_()
        is_lstm = isinstance(owner, nn.LSTMCell) or (isinstance(owner, nn.RNNBase) and owner.mode == "LSTM")
        if is_lstm and name.startswith("bias_ih"):
            bias.chunk(4)[1].fill_(FORGET_BIAS)  # torch stacks i f g o
    return module
