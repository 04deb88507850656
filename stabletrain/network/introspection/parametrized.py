"""Writing to parametrized weights, which torch computes from other parameters, as weight norm and spectral norm do."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from stabletrain.network.introspection.weights import find_parametrized
from stabletrain.torch_tools.isolation import preserve_modes

_NUM_READS = 15  # as many power iterations as torch.nn.utils.parametrizations.spectral_norm does initially


@contextlib.contextmanager
def writable_weights(module: nn.Module) -> Iterator[None]:
    """Make every parametrized weight a plain tensor that can be written in place, and assign it on exit.

    The parametrization then recovers its own parameters from the tensor, as far as it can represent it: weight norm
    represents any tensor, spectral norm divides it by its largest singular value, and a parametrization without
    `right_inverse` keeps its parameters.
    """
    with torch.no_grad(), parametrize.cached():
        weights = [(owner, name, _read(owner, name)) for owner, name in find_parametrized(module)]
        versions = [weight._version for _, _, weight in weights]
        yield
    for (owner, name, weight), version in zip(weights, versions, strict=True):
        if weight._version != version:
            _assign(owner, name, weight)


def _read(owner: nn.Module, name: str) -> Tensor:
    """Compute the weight in evaluation mode; in training mode spectral norm would do a step of its power iteration."""
    chain = _chain(owner, name)
    with preserve_modes(chain):
        chain.eval()
        return getattr(owner, name)


@torch.no_grad()
def _assign(owner: nn.Module, name: str, weight: Tensor) -> None:
    chain = _chain(owner, name)
    with contextlib.suppress(NotImplementedError, ValueError, RuntimeError):
        setattr(owner, name, weight)
    if next(chain.buffers(), None) is not None:  # the vectors of a power iteration belong to the old weight
        with preserve_modes(chain):
            chain.train()
            for _ in range(_NUM_READS):
                getattr(owner, name)


def _chain(owner: Any, name: str) -> nn.Module:
    """Return the parametrizations of one weight."""
    return owner.parametrizations[name]
