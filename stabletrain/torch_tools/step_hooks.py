"""Hear of every optimizer's step, without anything attached to an optimizer."""

from __future__ import annotations

import weakref
from typing import Any, Protocol

from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook


class StepListener(Protocol):
    """Hears of the steps of all optimizers in the process."""

    def begin(self, optimizer: Optimizer) -> None:
        """Receive an optimizer that is about to take a step."""

    def end(self, optimizer: Optimizer) -> None:
        """Receive an optimizer that has taken a step."""


_listening: list[weakref.ref[Any]] = []
_handles: list[Any] = []  # of torch's two global hooks, which are registered while anything listens


def listen(listener: StepListener) -> None:
    """Tell a listener of every step from now on. It is referenced weakly."""
    _listening.append(weakref.ref(listener, _listening.remove))
    if not _handles:
        _handles.append(register_optimizer_step_pre_hook(_tell_begin))
        _handles.append(register_optimizer_step_post_hook(_tell_end))


def ignore(listener: StepListener) -> None:
    """Tell a listener nothing more, and with the last one remove the global hooks.

    Garbage collection alone does not remove them, because it may happen while torch iterates over its hooks, which may
    not change then. They remain, without an effect, until something else is ignored.
    """
    _listening[:] = [ref for ref in _listening if ref() not in (None, listener)]
    if not _listening:
        while _handles:
            _handles.pop().remove()


def _tell_begin(optimizer: Optimizer, *_: Any) -> None:
    for ref in (*_listening,):
        if (found := ref()) is not None:
            found.begin(optimizer)


def _tell_end(optimizer: Optimizer, *_: Any) -> None:
    for ref in (*_listening,):
        if (found := ref()) is not None:
            found.end(optimizer)
