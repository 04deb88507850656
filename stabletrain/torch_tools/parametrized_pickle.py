"""Pickle modules whose weights are parametrized by `torch.nn.utils.parametrize`.

Parametrizing a module replaces its class by one that is created at run time, has a property for each parametrized
tensor, and cannot be pickled. `make_picklable_` gives that class a `__reduce_ex__` that rebuilds it when it is loaded.

`weight_norm` also registers a local function that converts state dicts of the older `torch.nn.utils.weight_norm`.
Pickles leave it out.

Uses the private functions `_inject_new_class` and `_inject_property` of `torch.nn.utils.parametrize` (checked with
torch 2.13.0).
"""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.utils import parametrize


def make_picklable_(module: nn.Module) -> nn.Module:
    """Make a parametrized module picklable, and return it; copies made by `copy.deepcopy` are picklable too.

    Example:
        >>> import pickle, torch
        >>> layer = make_picklable_(parametrize.register_parametrization(nn.Linear(2, 2), "weight", nn.Identity()))
        >>> loaded = pickle.loads(pickle.dumps(layer))
        >>> torch.equal(loaded.weight, layer.weight), parametrize.is_parametrized(loaded, "weight")
        (True, True)
    """
    assert parametrize.is_parametrized(module), type(module).__name__
    type(module).__reduce_ex__ = _reduce  # type: ignore[method-assign]  # of this module and its copies only
    return module


def _reduce(module: nn.Module, _: int) -> Any:
    original = type(module).__bases__[0]
    state = {name: value for name, value in module.__dict__.items() if name != "_compiled_call_impl"}
    hooks = module._load_state_dict_pre_hooks
    state["_load_state_dict_pre_hooks"] = type(hooks)((k, hook) for k, hook in hooks.items() if not _is_compat(hook))
    names = list(module.parametrizations)  # pyright: ignore[reportArgumentType, reportCallIssue]
    return original.__new__, (original,), (state, names), None, None, _set_state


def _is_compat(hook: Any) -> bool:
    return getattr(getattr(hook, "hook", hook), "__name__", "") == "_weight_norm_compat_hook"


def _set_state(module: nn.Module, state: tuple[dict[str, Any], list[str]]) -> None:
    attributes, names = state
    module.__setstate__(attributes)
    parametrize._inject_new_class(module)
    for name in names:
        parametrize._inject_property(module, name)
    make_picklable_(module)
