"""Counting the multiply-adds of a network's matrix products, from shapes alone: the same on every machine.

Uses `torch.utils._python_dispatch.TorchDispatchMode` (checked with torch 2.13.0), which sees the products of any
module, including those of functions and of cells in Python loops.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from stabletrain.torch_tools.isolation import preserve_rng

_aten = torch.ops.aten


def _matrix(a: Tensor, b: Tensor) -> list[int]:
    return [a.numel() * b.shape[-1]]


def _convolution(out: Tensor, weight: Tensor) -> list[int]:
    return [out.numel() * weight.numel() // max(1, weight.shape[0])]


def _recurrent_layer(inputs: Tensor, *weights: Tensor) -> list[int]:
    """Return one product per time step; `inputs` is (steps, batch, features)."""
    return [inputs.shape[1] * sum(w.numel() for w in weights)] * inputs.shape[0]


_PRODUCTS: dict[Any, Callable[[Any, Any], list[int]]] = {
    _aten.mm: lambda args, out: _matrix(args[0], args[1]),
    _aten.bmm: lambda args, out: _matrix(args[0], args[1]),
    _aten.addmm: lambda args, out: _matrix(args[1], args[2]),
    _aten.baddbmm: lambda args, out: _matrix(args[1], args[2]),
    _aten.convolution: lambda args, out: _convolution(out, args[1]),
    _aten.mkldnn_rnn_layer: lambda args, out: _recurrent_layer(args[0], args[1], args[2]),  # the fused LSTM
}


class _Counting(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.counts: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        count = _PRODUCTS.get(func.overloadpacket)
        if count is not None:
            self.counts += count(args, out)
        return out


def mean_multiply_adds(network: nn.Module, inputs: Tensor, batch_size: int) -> float | None:
    """Return the multiply-adds of an average matrix product of a forward pass over a batch.

    Counted are products of matrices, convolutions, and each time step of a recurrent layer. A copy of the network runs
    once on `inputs`; the network itself and the random number generators are left as they are.

    Args:
        network: Any module.
        inputs: A few examples, (num_examples, …).
        batch_size: Examples in a batch, to which the counts are scaled.

    Returns:
        The mean, 0 without any product; None if the network cannot run alone, as a LightningModule without `forward`.

    Example:
        >>> mean_multiply_adds(nn.Linear(4, 3), torch.ones(2, 4), batch_size=10)
        120.0
    """
    counting = _Counting()
    try:
        with preserve_rng(), counting:
            copy.deepcopy(network).train()(inputs)
    except Exception:
        return None
    if not counting.counts:
        return 0.0
    return math.fsum(counting.counts) / len(counting.counts) * batch_size / len(inputs)
