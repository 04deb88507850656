"""Initialization at the edge of chaos."""

from __future__ import annotations

import math
from typing import ClassVar

from torch import nn

from stabletrain.errors import require_range
from stabletrain.network.activation import Activation
from stabletrain.network.initialization import fill
from stabletrain.network.initialization.base import Initialization, Inputs, reset_biases_
from stabletrain.network.initialization.orthogonal import is_strided
from stabletrain.network.introspection.structure import find_activation, find_head
from stabletrain.network.introspection.weights import Block, find_biases, find_blocks
from stabletrain.network.meanfield.edge_of_chaos import find_critical
from stabletrain.network.meanfield.gaussian_signal import MeanField


class Critical(Initialization):
    """W of variance σ_w² / fan_in and b ~ N(0, σ_b²), with χ₁ = σ_w² E[φ'(√q* z)²] = 1: the edge of chaos.

    Weights are orthogonal, scaled by σ_w √max(1, out / fan_in) so that every unit has that variance; kernels of stride
    1 are delta-orthogonal. σ_w and σ_b come from `meanfield.find_critical`. Where q* is a single value above 0, the
    first layer takes inputs of mean square 1 to q*, and the head has outputs of variance 1 and no biases. Recurrent
    layers get σ_w for the input weights of a plain cell, and 1 for hidden-to-hidden weights and in gated cells, which
    have another mean-field theory; their biases are as in all other initializations.

    Args:
        bias_std: σ_b, from 0; None for the point at which the variance of the signal is marginally stable too.

    Raises:
        RequestError: The activation has no such point (sigmoid, softplus), or is neither given nor found in the
            module.

    References:
        Poole et al. 2016 and Schoenholz et al. 2017: see `find_critical`; Xiao et al. 2018, algorithm 1 (delta);
        Pennington et al. 2017, Resurrecting the Sigmoid in Deep Learning (orthogonal, not Gaussian);
        Roberts et al. 2022, The Principles of Deep Learning Theory, section 5.3 (first layer at q*).
    """

    option: ClassVar[str] = "critical"

    def __init__(self, bias_std: float | None = None) -> None:
        self.bias_std = None if bias_std is None else require_range("bias_std", bias_std, 0.0)

    def apply_(self, module: nn.Module, activation: Activation | None, inputs: Inputs | None) -> None:
        """Fill the weights and biases of `module`."""
        edge = find_critical(find_activation(module) if activation is None else activation, self.bias_std)
        head = find_head(module)
        for index, block in enumerate(find_blocks(module)):
            if block.weight.numel():
                place = "first" if index == 0 else "head" if block.owner is head else "hidden"
                self._fill_(block, find_weight_std(edge, block, place))
        reset_biases_(module)
        for owner, _, bias in find_biases(module):
            if not isinstance(owner, (nn.RNNBase, nn.RNNCellBase)) and owner is not head:
                bias.normal_(0.0, edge.bias_variance**0.5)

    def _fill_(self, block: Block, std: float) -> None:
        kernel = "flat" if is_strided(block) else "delta"
        fan_out, fan_in = block.weight.shape[:2] if kernel == "delta" else block.weight.flatten(1).shape
        fill.orthogonal_(block.weight, std * math.sqrt(max(1.0, fan_out / fan_in)), kernel)


def find_weight_std(edge: MeanField, block: Block, place: str) -> float:
    """Return σ_w of one block: √fan_in times the standard deviation of its entries.

    Args:
        edge: The critical point.
        block: The block.
        place: `first`, `hidden` or `head`.
    """
    if block.role == "hidden" or (block.recurrent and block.num_stacked > 1):
        return 1.0
    if edge.variance and place == "first":
        return math.sqrt(edge.variance - edge.bias_variance)  # q* = σ² · 1 + σ_b²
    if edge.variance and place == "head":
        return math.sqrt(edge.weight_variance / (edge.variance - edge.bias_variance))  # 1 = σ² E[φ²]
    return math.sqrt(edge.weight_variance)
