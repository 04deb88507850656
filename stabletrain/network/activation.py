"""The activations by name: torch's own classes, and one that torch has only with an open signature."""

from __future__ import annotations

from torch import nn


class Identity(nn.Identity):
    """φ(x) = x: a linear network. torch's own class takes any argument, and so hides a typo in one."""

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
