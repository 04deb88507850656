"""Writing to weights that torch computes from other parameters: weight norm, spectral norm and their like."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from stabletrain.network.introspection.weights import find_parametrized
from stabletrain.torch_tools.isolation import preserve_modes

_NUM_READS = 15  # torch.nn.utils.parametrizations.spectral_norm: as many power iterations when it is put on


@contextlib.contextmanager
def writable_weights(module: nn.Module) -> Iterator[None]:
    """Inside, a parametrized weight is one tensor that may be written in place; on leaving it is assigned.

    The parametrization then finds its own parameters from the tensor, as far as it can hold it: weight norm
    holds any, spectral norm divides it by its largest singular value, and what holds none keeps what it had.
    """
    with torch.no_grad(), parametrize.cached():
        weights = [(owner, name, _read(owner, name)) for owner, name in find_parametrized(module)]
        versions = [weight._version for _, _, weight in weights]
        yield
    for (owner, name, weight), version in zip(weights, versions, strict=True):
        if weight._version != version:
            _assign(owner, name, weight)


def _read(owner: nn.Module, name: str) -> Tensor:
    """Compute the weight without a step of the power iteration, which training mode would do."""
    chain = _chain(owner, name)
    with preserve_modes(chain):
        chain.eval()
        return getattr(owner, name)


@torch.no_grad()
def _assign(owner: nn.Module, name: str, weight: Tensor) -> None:
    chain = _chain(owner, name)
    with contextlib.suppress(NotImplementedError, ValueError, RuntimeError):
        setattr(owner, name, weight)
    if next(chain.buffers(), None) is not None:  # what an iteration knows is of the old weight
        with preserve_modes(chain):
            chain.train()
            for _ in range(_NUM_READS):
                getattr(owner, name)


def _chain(owner: Any, name: str) -> nn.Module:
    """Return the parametrizations of one weight."""
    return owner.parametrizations[name]
