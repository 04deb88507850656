"""Replace a method of a module, or switch off the hooks of an optimizer, for the duration of a `with` block.

Uses internals of torch (checked with torch 2.13.0):

- `nn.Module.__call__` looks up `forward` on the instance, so an instance attribute takes precedence over the class.
  `object.__setattr__` sets it without the checks of `nn.Module.__setattr__`.
- The class of a module can be changed by assigning `__class__`, as `torch.nn.utils.parametrize` does.
- `Optimizer._optimizer_step_pre_hooks` and `_optimizer_step_post_hooks` hold the hooks of `Optimizer.step`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import new_class
from typing import Any

from torch import nn
from torch.optim import Optimizer


@contextmanager
def replaced_method(module: nn.Module, name: str, function: Callable[..., Any]) -> Iterator[None]:
    """Replace a method of one module by a function, which is called without the module.

    Example:
        >>> import torch
        >>> layer = nn.Identity()
        >>> with replaced_method(layer, "forward", torch.neg):
        ...     print(layer(torch.tensor(1.0)))
        tensor(-1.)
        >>> "forward" in layer.__dict__
        False
    """
    before = module.__dict__.get(name)
    object.__setattr__(module, name, function)
    try:
        yield
    finally:
        if before is None:
            object.__delattr__(module, name)
        else:
            object.__setattr__(module, name, before)


@contextmanager
def replaced_forward(module: nn.Module, base: type[nn.Module], function: Callable[..., Any]) -> Iterator[None]:
    """Replace the forward pass that a module inherits from `base`, also where a subclass calls it by `super()`.

    Args:
        module: An instance of `base` or of a subclass, which may extend `forward`.
        base: The class whose `forward` is replaced, for this module only.
        function: Called in its place with the same arguments, without the module.
    """
    original = type(module)
    if original.forward is base.forward:
        with replaced_method(module, "forward", function):
            yield
        return
    replacement = type(base.__name__, (base,), {"forward": lambda _, *args, **kwargs: function(*args, **kwargs)})
    # `replacement` precedes `base` in the method resolution order, so that `super().forward` is `function`
    object.__setattr__(module, "__class__", new_class(original.__name__, (original, replacement)))
    try:
        yield
    finally:
        object.__setattr__(module, "__class__", original)


@contextmanager
def without_step_hooks(optimizer: Optimizer) -> Iterator[None]:
    """Do not call the hooks that are registered on `optimizer.step`."""
    before, after = optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks
    optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks = type(before)(), type(after)()
    try:
        yield
    finally:
        optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks = before, after
