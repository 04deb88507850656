"""Initializations that scale down the branches of a residual network by its depth."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from stabletrain.errors import RequestError, require_range
from stabletrain.network.activation import Activation
from stabletrain.network.initialization import fill
from stabletrain.network.initialization.base import Initialization, Inputs, reset_biases_
from stabletrain.network.initialization.variance_scaling import He
from stabletrain.network.introspection.structure import find_head, require_branches
from stabletrain.network.introspection.weights import find_blocks
from stabletrain.network.residual import Branch


class DepthScaled(Initialization):
    """W ~ N(0, std²), with the last weight of each of the N residual branches divided by √N.

    All N branches together then add as much variance to the signal as one unscaled branch. A transformer of L layers
    has N = 2L.

    Args:
        std: Standard deviation, above 0; None for 1 / √fan_in, whatever the activation. GPT-2's 0.02 is close to
            that at its widths: 0.036 for 768, 0.025 for 1600.

    Raises:
        RequestError: The network has no recognized branches.

    References:
        Radford et al. 2019, Language Models are Unsupervised Multitask Learners, section 2.3; Radford et al. 2018,
        section 4.1 (0.02).
    """

    option: ClassVar[str] = "depth_scaled"

    def __init__(self, std: float | None = None) -> None:
        self.std = None if std is None else require_range("std", std, 0.0, open_minimum=True)

    def apply_(self, module: nn.Module, activation: Activation | None, inputs: Inputs | None) -> None:
        """Fill the weights of `module`, zero its biases and scale down its branches."""
        branches = require_branches(module, "depth_scaled")
        for block in find_blocks(module):
            if block.weight.numel():
                fill.lecun_(block.weight) if self.std is None else fill.normal_(block.weight, self.std)
        reset_biases_(module)
        for branch in branches:
            branch.weights[-1].detach().div_(len(branches) ** 0.5)


class Fixup(Initialization):
    """Fixup: zero the last weight of each of L residual branches and scale its other m − 1 by L^(−1/(2m−2)).

    Weights are initialized by `He` before they are scaled, those outside of the branches too; the head (the last
    linear layer outside of the branches) and all biases are zero. A branch of one weight is therefore zero. The
    paper's rule 3, scalar biases and a multiplier in each branch, changes the network and is not applied here;
    `residual=layerscale residual.initial=1` adds the multiplier.

    Raises:
        RequestError: The network has no recognized branches, or a branch of one weight ends in an activation whose
            slope at 0 is 0, such as ReLU: it would never learn.

    References:
        Zhang et al. 2019, Fixup Initialization: Residual Learning Without Normalization, section 3.2, rules 1 and 2.
    """

    option: ClassVar[str] = "fixup"

    def apply_(self, module: nn.Module, activation: Activation | None, inputs: Inputs | None) -> None:
        """Fill the weights of `module`, scale its branches, and zero their last weights, the head and the biases."""
        branches = require_branches(module, "fixup")
        _require_slope(branches, activation)
        he = He()
        for block in find_blocks(module):
            if block.weight.numel():
                he.fill_(block, activation)
        reset_biases_(module)
        for branch in branches:
            *others, last = branch.weights
            for weight in others:
                weight.detach().mul_(len(branches) ** (-1 / (2 * len(others))))
            last.detach().zero_()
        head = find_head(module)
        if head is not None:
            next(block.weight for block in find_blocks(module) if block.owner is head).zero_()


def _require_slope(branches: list[Branch], activation: Activation | None) -> None:
    """Raise RequestError for branches that would never learn: φ(W x) with W = 0 and φ'(0) = 0."""
    if activation is None or all(len(branch.weights) > 1 for branch in branches):
        return
    with torch.enable_grad():
        zero = torch.zeros(1, requires_grad=True)
        try:
            (slope,) = torch.autograd.grad(activation(zero).sum(), zero)
        except RuntimeError:  # no gradient, or parameters of another device or dtype: the slope is unknown
            return
    if float(slope) == 0:
        name = getattr(activation, "__name__", type(activation).__name__)
        raise RequestError(
            f"Fixup sets branches of one weight to 0, and the slope of {name} at 0 is 0: they would never learn.",
            key="init",
            found=f"fixup with {name} and one weight in a branch",
            allowed="branches of two weights and more (resnet, transformer), or an activation such as tanh or elu",
            closest="he",
            command="residual=rezero init=he",
        )
