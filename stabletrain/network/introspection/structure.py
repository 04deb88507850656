"""The structure of any network, as initializations need it: its residual branches, its head, its activation."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from stabletrain.errors import RequestError
from stabletrain.network.activation import TORCH_ACTIVATIONS, Activation
from stabletrain.network.introspection.branches import FINDERS
from stabletrain.network.introspection.weights import find_weights, is_transposed_linear
from stabletrain.network.residual import AddResidual, Branch, find_branches, names_branches


def find_all_branches(network: nn.Module) -> list[Branch]:
    """Return the additive branches of `network` that have weights: ours, and those of recognized foreign blocks.

    Parametrized weights can be filled only within `parametrized.writable_weights`.
    """
    found = find_branches(network)
    for module in network.modules():
        if not names_branches(module):
            paths = next((paths for finder in FINDERS if (paths := finder(module))), [])
            found += [Branch(AddResidual(path[-1].size(0)), path) for path in paths]
    return [branch for branch in found if branch.weights]


def require_branches(network: nn.Module, init: str) -> list[Branch]:
    """Return the branches of `network`; there must be at least one.

    Raises:
        RequestError: There are none.
    """
    branches = find_all_branches(network)
    if branches:
        return branches
    raise RequestError(
        f"{init} scales the branches of a residual network, and no residual branch was recognized in "
        f"{type(network).__name__}: nothing to scale.",
        key="init",
        found=init,
        allowed=f"{init} with residuals around the layers, or another init",
        closest="orthogonal",
        command="residual=add",
    )


def find_head(network: nn.Module) -> nn.Module | None:
    """Return the last linear layer outside of the branches that is not tied to an embedding and not the first layer."""
    inside = {_storage(weight) for branch in find_all_branches(network) for weight in branch.weights}
    weights = find_weights(network)
    found = [
        owner
        for owner, _, weight in weights[1:]
        if (isinstance(owner, nn.Linear) or is_transposed_linear(owner))
        and not isinstance(owner, NonDynamicallyQuantizableLinear)  # the output projection of torch's attention
        and _storage(weight) not in inside
    ]
    return found[-1] if found else None


def _storage(weight: Tensor) -> int:
    return weight.untyped_storage().data_ptr()


def find_activation(network: nn.Module) -> Activation:
    """Return the one elementwise activation of `network`.

    Raises:
        RequestError: There is none, or there are several kinds.
    """
    found: dict[str, Activation] = {}
    for module in network.modules():
        foreign = type(module).__module__.startswith("transformers.activations")
        named: Any = getattr(module, "activation", None) if _is_torch_layer(module) else None
        if isinstance(module, tuple(TORCH_ACTIVATIONS)) or foreign:
            found.setdefault(type(module).__name__.lower(), module)
        elif isinstance(module, (nn.RNN, nn.RNNCell)):
            found.setdefault(module.nonlinearity, nn.ReLU() if module.nonlinearity == "relu" else nn.Tanh())
        elif callable(named) and not isinstance(named, nn.Module):
            found.setdefault(getattr(named, "__name__", repr(named)), cast(Activation, named))
    if len(found) == 1:
        return next(iter(found.values()))
    raise RequestError(
        f"{type(network).__name__} has {'more than one' if found else 'no'} elementwise activation that is recognized.",
        key="activation",
        found=", ".join(sorted(found)) or None,
        allowed="the one that follows the weights, as initialize_(module, init, activation=torch.nn.GELU())",
    )


def _is_torch_layer(module: nn.Module) -> bool:
    return isinstance(module, (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer))
