"""Weight norm and spectral norm for all weights of any network, by torch's parametrizations."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd
from torch.nn.utils import parametrizations

from stabletrain.errors import RequestError
from stabletrain.network.introspection.weights import find_parameters, is_transposed_linear
from stabletrain.network.models.unrolled import Unrolled
from stabletrain.network.normalization import SpectralNorm, WeightNorm
from stabletrain.torch_tools.parametrized_pickle import make_picklable_

REPARAMETRIZATIONS: dict[Any, str] = {WeightNorm: "weight", SpectralNorm: "spectral"}


def find_reparametrization(norm: nn.Module) -> str | None:
    """Return `weight` or `spectral` for the norms that act on weights, None for those that act on activations."""
    return REPARAMETRIZATIONS.get(type(norm))


def reparametrize_(network: nn.Module, kind: str) -> nn.Module:
    """Reparametrize every weight with two or more axes by weight norm or spectral norm, in place.

    Weight norm does not change the weights; spectral norm divides each by its largest singular value. Norms, embeddings
    and weights shared by two modules are left as they are.

    Args:
        network: Any module, already initialized.
        kind: `weight` or `spectral`.

    Returns:
        `network`.

    Raises:
        RequestError: A weight, or for weight norm a row of it, is zero and has no direction; or a recurrent layer is
            fused.
    """
    uses = Counter(id(p) for m in network.modules() for p in m._parameters.values() if p is not None)
    found = [
        (owner, name, weight)
        for owner, name, weight in find_parameters(network)
        if weight.dim() >= 2 and "weight" in name and "bias" not in name and uses[id(weight)] == 1
    ]
    for owner, _, weight in found:
        _require_plain_layer(owner, kind)
        _require_direction(weight.detach().movedim(_output_axis(owner), 0), kind, type(owner).__name__)
    for owner, name, _ in found:
        axis = _output_axis(owner)
        if kind == "weight":
            parametrizations.weight_norm(owner, name, dim=axis)
        else:
            parametrizations.spectral_norm(owner, name, dim=axis)
        make_picklable_(owner)
    return network


def _output_axis(owner: nn.Module) -> int:
    return 1 if isinstance(owner, _ConvTransposeNd) or is_transposed_linear(owner) else 0


def _require_plain_layer(owner: nn.Module, kind: str) -> None:
    if isinstance(owner, nn.RNNBase) and not isinstance(owner, Unrolled):
        raise RequestError(
            f"torch's fused {type(owner).__name__} keeps its own list of weights, which {kind} norm does not reach.",
            key="norm",
            found=kind,
            allowed="an unrolled layer",
            command="model.implementation=unrolled",
        )


def _require_direction(weight: Tensor, kind: str, owner: str) -> None:
    rows = weight.flatten(1).norm(dim=1)
    bad = bool((rows == 0).any()) if kind == "weight" else not bool(torch.any(rows > 0))
    if bad and weight.numel():
        raise RequestError(
            f"{kind} norm divides by the norm of a weight, and this initialization makes a weight of {owner} zero.",
            key="norm",
            found=kind,
            allowed="an init whose weights are not zero: orthogonal, he, xavier, lecun",
            command="init=orthogonal",
        )
