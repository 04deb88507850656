"""Weight norm and spectral norm of all weights of any network, by torch's parametrizations."""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd
from torch.nn.utils import parametrizations

from stabletrain.errors import RequestError
from stabletrain.network.introspection.weights import find_parameters, is_transposed_linear
from stabletrain.network.models.unrolled import Unrolled
from stabletrain.network.normalization import SpectralNorm, WeightNorm
from stabletrain.torch_tools.parametrized_pickle import make_picklable_


def find_reparametrization(norm: nn.Module) -> str | None:
    """Return `weight` or `spectral` for the norms that act on weights, None for those that act on signals."""
    return {WeightNorm: "weight", SpectralNorm: "spectral"}.get(type(norm))  # pyright: ignore[reportArgumentType]


def reparametrize_(network: nn.Module, kind: str) -> nn.Module:
    """Put every weight of two axes and more behind weight norm or spectral norm, and return the network.

    Weight norm keeps the weights as they are; spectral norm divides each by its largest singular value. Norms,
    embeddings and weights that two modules share stay plain.

    Args:
        network: Any module, initialized.
        kind: `weight` or `spectral`.

    Raises:
        RequestError: A weight is, or has a row that is, zero: it has no direction. Or a fused recurrent layer.
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
            f"torch's fused {type(owner).__name__} keeps its own list of weights: {kind} norm would not reach them.",
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
            f"{kind} norm divides by the size of a weight, and this initialization makes a weight of {owner} zero.",
            key="norm",
            found=kind,
            allowed="an init whose weights are not zero: orthogonal, he, xavier, lecun",
            command="init=orthogonal",
        )
