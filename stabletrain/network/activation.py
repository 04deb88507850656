"""Activations that torch does not have as a class with a closed signature; all others are torch's own."""

from __future__ import annotations

from torch import nn


class Identity(nn.Identity):
    """φ(x) = x: a linear network. torch's own class takes any argument, and so hides a typo in one."""

    def __init__(self) -> None:
        super().__init__()
