"""Look at a loss just before its backward pass, while the tensors that autograd saved are still there.

`Tensor.backward` and `torch.autograd.backward` both end in the function `torch.autograd.backward`, which is looked up
in its module on each call (checked with torch 2.13.0). It is replaced by a function that calls the observers and then
the original, while there is an observer. Observers are referenced weakly.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._compile import _disable_dynamo

Observer = Callable[[Tensor], None]

_observers: tuple[weakref.WeakMethod[Observer], ...] = ()
_original: Callable[..., Any] | None = None


def observe_backward(observer: Observer) -> None:
    """Call a bound method with each tensor that is about to be differentiated by `backward`.

    Example:
        >>> class Names(list):
        ...     def note(self, loss):
        ...         self.append(loss.grad_fn.name())
        >>> names = Names()
        >>> observe_backward(names.note)
        >>> torch.ones(2, requires_grad=True).sum().backward()
        >>> ignore_backward(names.note)
        >>> names
        ['SumBackward0']
    """
    global _original, _observers
    _observers = (*_observers, weakref.WeakMethod(observer))
    if _original is None:
        _original = torch.autograd.backward
        torch.autograd.backward = functools.wraps(_original)(_disable_dynamo(_backward, recursive=False))


def ignore_backward(observer: Observer) -> None:
    """Undo `observe_backward`."""
    _keep(lambda known: known != observer)


def _keep(wanted: Callable[[Observer], bool]) -> None:
    global _original, _observers
    _observers = tuple(ref for ref in _observers if (known := ref()) is not None and wanted(known))
    if not _observers and _original is not None and torch.autograd.backward.__wrapped__ is _original:  # pyright: ignore[reportFunctionMemberAccess]
        torch.autograd.backward = _original  # else somebody replaced it since, and still calls ours
        _original = None


@_disable_dynamo
def _call(observer: Observer, loss: Tensor) -> None:
    observer(loss)


def _backward(tensors: Any, *args: Any, **kwargs: Any) -> Any:
    assert _original is not None
    for ref in _observers:
        observer = ref()
        if observer is None:
            _keep(lambda _: True)
            continue
        for loss in (tensors,) if isinstance(tensors, Tensor) else tuple(tensors):
            if isinstance(loss, Tensor):
                _call(observer, loss)
    original = _original or torch.autograd.backward  # the last observer may just have gone
    return original(tensors, *args, **kwargs)
