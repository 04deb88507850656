"""Activations: the options of `conf/activation/`, and everything in torch that counts as an elementwise activation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Activation = Callable[[Tensor], Tensor]  # elementwise; a module or a function


class Identity(nn.Identity):
    """φ(x) = x: a linear network.

    Unlike `torch.nn.Identity` it takes no arguments, so that a misspelled setting is an error.
    """

    def __init__(self) -> None:
        super().__init__()


ACTIVATIONS: dict[str, type[nn.Module]] = {
    "identity": Identity,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "prelu": nn.PReLU,
    "elu": nn.ELU,
    "selu": nn.SELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "mish": nn.Mish,
    "softplus": nn.Softplus,
}

# Elementwise activations of torch: the class, and the name of its function in `torch` or `torch.nn.functional`. None
# where the function is called with more than the tensor (PReLU's weight, Threshold's two numbers).
TORCH_ACTIVATIONS: dict[type[nn.Module], str | None] = {
    nn.CELU: "celu",
    nn.ELU: "elu",
    nn.GELU: "gelu",
    nn.Hardshrink: "hardshrink",
    nn.Hardsigmoid: "hardsigmoid",
    nn.Hardswish: "hardswish",
    nn.Hardtanh: "hardtanh",
    nn.LeakyReLU: "leaky_relu",
    nn.LogSigmoid: "logsigmoid",
    nn.Mish: "mish",
    nn.PReLU: None,
    nn.RReLU: "rrelu",
    nn.ReLU: "relu",
    nn.ReLU6: "relu6",
    nn.SELU: "selu",
    nn.SiLU: "silu",
    nn.Sigmoid: "sigmoid",
    nn.Softplus: "softplus",
    nn.Softshrink: "softshrink",
    nn.Softsign: "softsign",
    nn.Tanh: "tanh",
    nn.Tanhshrink: "tanhshrink",
    nn.Threshold: None,
}

# Those functions, each also in its in-place form (`torch.relu_`) where torch has one.
TORCH_FUNCTIONS: frozenset[Activation] = frozenset(
    function
    for name in TORCH_ACTIVATIONS.values()
    if name is not None
    for namespace in (torch, F)
    for suffix in ("", "_")
    if (function := getattr(namespace, name + suffix, None)) is not None
)
