"""Replaces the activations or the norms of a network that is already built, ours or foreign."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from stabletrain.errors import RequestError, require_choice
from stabletrain.network.activation import ACTIVATIONS
from stabletrain.network.models.unrolled import Unrolled
from stabletrain.network.normalization import NORMS, Layout, build_norm
from stabletrain.network.normalization.step_norm import build_step_norm
from stabletrain.network.surgery.recognition import find_norm, is_activation, is_activation_function, refresh_fast_paths
from stabletrain.network.surgery.reparametrization import REPARAMETRIZATIONS, reparametrize_
from stabletrain.signatures import require_options


@dataclass(frozen=True)
class _Place:
    """A place in a network.

    Attributes:
        owner: The module that has it as an attribute; None for the network itself.
        name: Name of the attribute.
        path: Its name from the root of the network, for messages.
        found: What is there: a module, or a function kept by `owner`.
    """

    owner: nn.Module | None
    name: str
    path: str
    found: Any


def replace_activations_(model: nn.Module, activation: str | Callable[[], nn.Module], **options: Any) -> nn.Module:
    """Replace every activation in `model`, in place.

    Replaced are elementwise activations of torch and of the transformers library, both modules and functions kept as
    an attribute (`torch.nn.TransformerEncoderLayer.activation`). This includes gates and outputs: to keep a final
    `Sigmoid`, call it on the part of the network before. Activations called in a forward method (`torch.relu(x)`) or
    computed by a fused kernel (`torch.nn.LSTM`) cannot be replaced. Call it before creating the optimizer, since some
    activations have parameters.

    Args:
        model: Any module; changed in place, unless it is an activation itself.
        activation: A name in `ACTIVATIONS`, or a callable without arguments that returns a module (`torch.nn.GELU`).
        **options: Options of the named activation, such as `negative_slope`.

    Returns:
        `model`, or the new activation if `model` is one itself.

    Raises:
        RequestError: The name or an option is unknown, or there is nothing to replace.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 4), nn.Sigmoid(), nn.Linear(4, 2))
        >>> replace_activations_(model, "leaky_relu", negative_slope=0.1)[1]
        LeakyReLU(negative_slope=0.1)
    """
    make = _choose("activation", activation, ACTIVATIONS, options)
    places = [place for place in _walk(model) if _is_activation(place)]
    if not places:
        raise _missing(model, "activation", "activations as modules, or as functions kept in attributes")
    model = _replace_(model, places, lambda place: make())
    refresh_fast_paths(model)
    return model


def replace_norms_(model: nn.Module, norm: str | Callable[[int], nn.Module], **options: Any) -> nn.Module:
    """Replace every norm in `model`, in place.

    Replaced are torch's batch, layer, group, instance and RMS norms, ours, and foreign modules named …LayerNorm or
    …RMSNorm with a gain (`weight`, `gamma`, `g`, `scale`).
    A new norm has the width, layout, device and dtype of the old one, and freshly initialized parameters and
    statistics. `none` removes the norms; `weight` and `spectral` remove them and normalize the weights instead
    (`reparametrize_`). Call it before creating the optimizer.

    Args:
        model: Any module; changed in place, unless it is a norm itself.
        norm: A name in `NORMS`, or a callable that takes the width and returns a module; unless that is a subclass of
            our `Norm`, it must act on the last axis.
        **options: Options of the named norm, such as `num_groups`.

    Returns:
        `model`, or the new norm if `model` is one itself.

    Raises:
        RequestError: The name or an option is unknown, a width does not fit the norm, a norm acts on several axes, or
            there is nothing to replace.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        >>> replace_norms_(model, "group", num_groups=2)[1].num_groups
        2
    """
    make = _choose("norm", norm, NORMS, options)
    kind = REPARAMETRIZATIONS.get(getattr(make, "func", make))
    stepwise = {id(n) for m in model.modules() if isinstance(m, Unrolled) for n in m.norms.values()}
    sites: dict[int, tuple[int, Layout]] = {}
    places = []
    for place in _walk(model):
        if (site := find_norm(place.found, place.path)) is not None:
            sites[id(place.found)] = site
            places.append(place)
    if not places and kind is None:
        raise _missing(model, "norm", "norms that are modules: batch, layer, group, instance or RMS norm")

    def build(place: _Place) -> nn.Module:
        width, layout = sites[id(place.found)]
        try:
            return build_step_norm(make, width) if id(place.found) in stepwise else build_norm(make, width, layout)
        except RequestError as error:
            error.problem = f"{place.path or 'The model'}: {error.problem}"
            raise

    model = _replace_(model, places, build, before=lambda: kind and reparametrize_(model, kind))
    refresh_fast_paths(model)
    return model


def _choose(key: str, choice: Any, table: dict[str, Any], options: dict[str, Any]) -> Callable[..., nn.Module]:
    """Return a factory of the part: the named class with its options bound, or the given factory."""
    part: Callable[..., Any] = choice
    if isinstance(choice, str):
        part = table[require_choice(key, choice, table)]
    elif isinstance(choice, nn.Module) or not callable(choice) or is_activation_function(choice):
        raise RequestError(
            f"One {key} cannot be used in several places: give a factory that makes a new one for each.",
            key=key,
            found=choice,
            allowed=f"a name ({', '.join(table)}) or a factory such as a class",
        )
    require_options(part if isinstance(choice, str) else None, options, f"{key} {choice!r}", exclude=("width",))
    return functools.partial(part, **options) if options else part


def _walk(model: nn.Module) -> Iterator[_Place]:
    """Yield the root, and each module's children (shared ones at every place) and activation functions."""
    yield _Place(None, "", "", model)
    for path, owner in model.named_modules():
        prefix = f"{path}." if path else ""
        for name, child in owner._modules.items():
            if child is not None:
                yield _Place(owner, name, prefix + name, child)
        for name, value in vars(owner).items():
            if is_activation_function(value):
                yield _Place(owner, name, prefix + name, value)


def _is_activation(place: _Place) -> bool:
    return is_activation_function(place.found) if not isinstance(place.found, nn.Module) else is_activation(place.found)


def _replace_(
    model: nn.Module,
    places: list[_Place],
    build: Callable[[_Place], nn.Module],
    before: Callable[[], Any] = lambda: None,
) -> nn.Module:
    """Build all replacements, then put them in place, so that an error changes nothing; shared modules stay shared."""
    built: dict[Any, nn.Module] = {}
    for place in places:
        if _identity(place) not in built:
            built[_identity(place)] = _match(build(place), place, model)
    before()
    for place in places:
        if place.owner is None:
            return built[_identity(place)]
        setattr(place.owner, place.name, built[_identity(place)])
    return model


def _identity(place: _Place) -> Any:
    """Return a key that is equal for all places of one module; a function is replaced at each place separately."""
    return id(place.found) if isinstance(place.found, nn.Module) else (id(place.owner), place.name)


def _match(new: nn.Module, place: _Place, model: nn.Module) -> nn.Module:
    """Move the new module to the device, dtype and mode of the one it replaces, and keep its other parts."""
    for module in (place.found, place.owner, model):
        tensors = [*module.parameters(), *module.buffers()] if isinstance(module, nn.Module) else []
        like = next((tensor for tensor in tensors if tensor.is_floating_point()), None)
        if like is not None:
            new = new.to(device=like.device, dtype=like.dtype)
            break
    children = place.found.children() if isinstance(place.found, nn.Module) else ()
    kept = [child for child in children if not isinstance(child, nn.LayerNorm | nn.RMSNorm)]  # what the norm is made of
    new = nn.Sequential(new, *kept) if kept else new
    owner = model if place.owner is None else place.owner
    return new.train(place.found.training if isinstance(place.found, nn.Module) else owner.training)


def _missing(model: nn.Module, part: str, allowed: str) -> RequestError:
    if any(isinstance(m, nn.RNNBase) and not isinstance(m, Unrolled) for m in model.modules()):
        allowed += "; or, for our recurrent models, implementation=unrolled: a fused kernel cannot be changed"
    return RequestError(
        f"The model has no {part} that can be replaced.",
        key="model",
        found=type(model).__name__,
        allowed=f"a model with {allowed}",
    )
