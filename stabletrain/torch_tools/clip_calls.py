"""Hear of every call of PyTorch's gradient clipping, with the parameters whose gradients it clips.

`clip_grad_norm_` looks up `_clip_grads_with_norm_` in its module on each call, however it was imported itself (checked
with torch 2.13.0). That function is replaced while anybody listens, as is `clip_grad_value_` where it is looked up in
`torch.nn.utils`. Listeners are referenced weakly.
"""

from __future__ import annotations

import functools
import inspect
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grad

ClipListener = Callable[[Sequence[Tensor], float], None]  # parameters, limit

_PLACES = ((clip_grad, "_clip_grads_with_norm_"), (clip_grad, "clip_grad_value_"), (torch.nn.utils, "clip_grad_value_"))
_listening: tuple[weakref.WeakMethod[ClipListener], ...] = ()
_replaced: list[tuple[Any, str, Any, Any]] = []  # module, name, the original, what took its place


def listen_to_clipping(listener: ClipListener) -> None:
    """Call a bound method with the parameters and the limit, after each clipping.

    Example:
        >>> class Limits(list):
        ...     def note(self, parameters, limit):
        ...         self.append(limit)
        >>> limits, layer = Limits(), torch.nn.Linear(2, 1)
        >>> listen_to_clipping(limits.note)
        >>> _ = torch.nn.utils.clip_grad_norm_(layer.parameters(), 0.5)
        >>> ignore_clipping(limits.note)
        >>> limits
        [0.5]
    """
    global _listening
    _listening = (*_listening, weakref.WeakMethod(listener))
    if not _replaced:
        _replaced.extend((place, name, getattr(place, name), _telling(getattr(place, name))) for place, name in _PLACES)
        for place, name, _, new in _replaced:
            setattr(place, name, new)


def ignore_clipping(listener: ClipListener) -> None:
    """Undo `listen_to_clipping`; with the last listener, put the original functions back."""
    global _listening
    _listening = tuple(ref for ref in _listening if ref() not in (None, listener))
    if not _listening:
        while _replaced:
            place, name, old, new = _replaced.pop()
            if getattr(place, name) is new:  # else somebody replaced it since, and still calls ours
                setattr(place, name, old)


def _telling(function: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(function)

    @functools.wraps(function)
    def clip(*args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            return function(*args, **kwargs)
        given = signature.bind(*args, **kwargs).arguments
        parameters, limit, *_ = given.values()
        parameters = [parameters] if isinstance(parameters, Tensor) else [*parameters]  # it may be a generator
        given[next(iter(given))] = parameters
        result = function(**given)
        for ref in _listening:
            listener = ref()
            if listener is not None:
                listener(parameters, float(limit))
        return result

    return clip
