"""The initialization of a case."""

from __future__ import annotations

import math

import torch
from torch import nn

from benchmarks.doctor.case import Network, Start
from benchmarks.doctor.models import AttentionBlock, Block

RECTIFIED = math.sqrt(2)
GAINS = {  # He 2015; LeCun 1998
    **dict.fromkeys(("relu", "leaky_relu", "gelu"), RECTIFIED),
    **{"elu": 1.25, "tanh": 1.2, "sigmoid": 1.0},
}
PLACE_STD = 0.3  # of the transformer's position embeddings
CONSTANT = 0.1
KEEPING_GATE = 1  # in torch's order: (i, f, g, o) and (r, z, n)


@torch.no_grad()
def initialize_(model: nn.Module, network: Network, start: Start) -> None:
    """Initialize a network: healthy weights, modified as described by `start`."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            _fill(module, GAINS[network.activation], start.scheme)
        elif isinstance(module, nn.RNNBase):
            _fill_recurrent(module, network, start)
    if hasattr(model, "place"):
        model.place.normal_(0.0, PLACE_STD)
    num_added = network.depth if network.residual == "add" else 1  # the output is a sum of so many branches
    _fill(model.head, num_added**-0.5, start.scheme)
    for index, block in enumerate(getattr(model, "blocks", ())):
        if start.at in (None, index):
            _spoil(block, start)
        if network.residual == "zero" and index > 0:
            _zero_branch(block)
        block.requires_grad_(index >= start.frozen)


def _fill(module: nn.Module, gain: float, scheme: str) -> None:
    weight = module.weight
    if scheme == "scaled":
        weight.normal_(0.0, gain / math.sqrt(weight[0].numel()))
    else:
        weight.fill_(CONSTANT if scheme == "constant" else 0.0)
    module.bias.zero_()


def _spoil(block: nn.Module, start: Start) -> None:
    """Apply gain and bias to a hidden layer, in attention to its four weights."""
    names = ("qkv", "out", "up", "down") if isinstance(block, AttentionBlock) else ("linear",)
    for name in names:
        module = getattr(block, name)
        module.weight.mul_(start.gain)
        module.bias.add_(start.bias)


def _zero_branch(block: nn.Module) -> None:
    """Initialize the last layer of a residual branch to zero."""
    for module in (block.linear,) if isinstance(block, Block) else (block.out, block.down):
        module.weight.zero_()
        module.bias.zero_()


def _fill_state(gate: torch.Tensor, network: Network, gain: float) -> None:
    """Initialize recurrent weights as orthogonal; with ReLU as the identity (Le et al. 2015)."""
    if network.family == "rnn" and network.activation == "relu":
        nn.init.eye_(gate).mul_(gain)
    else:
        nn.init.orthogonal_(gate, gain)


def _fill_recurrent(module: nn.RNNBase, network: Network, start: Start) -> None:
    width = network.width
    for name, parameter in module.named_parameters():
        if name.startswith("weight_hh"):
            for gate in parameter.split(width):
                _fill_state(gate, network, start.recurrent_gain)
        elif name.startswith("weight_ih"):
            parameter.normal_(0.0, start.gain / math.sqrt(parameter.shape[1]))
        else:
            parameter.zero_()
        if name.startswith("bias_ih"):
            parameter.add_(start.bias)
            if network.family != "rnn":
                parameter.split(width)[KEEPING_GATE].fill_(start.gate_bias)
            if network.family == "lstm":
                parameter[:width] = -start.gate_bias / 2  # cells that remember for long admit little input
        if start.scheme != "scaled" and name.startswith("weight"):
            parameter.fill_(CONSTANT if start.scheme == "constant" else 0.0)
