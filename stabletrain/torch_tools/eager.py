"""Run compiled functions eagerly for a while, at the request of several holders that need not be nested.

`torch.compiler.set_stance` restores the stance that it found, so that two holders which do not exit in reverse order
would leave the wrong stance. Here holders are counted instead. Checked with torch 2.13.0.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

REPLACED = "replaced_by_stabletrain"  # attribute of a function in place of a compiled one: what was there before

_num_holders = 0
_num_blocks = 0  # of `eagerly`, entered and not left
_stance: Any = None  # what `torch.compiler.set_stance` returned


def hold() -> None:
    """Run compiled functions eagerly until the matching `release`."""
    global _num_holders
    _num_holders += 1
    ensure()


def release() -> None:
    """Undo one call of `hold`."""
    global _num_holders, _stance
    assert _num_holders > 0
    _num_holders -= 1
    if _num_holders == 0 and _stance is not None:
        stance, _stance = _stance, None
        stance.__exit__(None, None, None)


def ensure() -> None:
    """Set the stance if it is held and `torch.compile` has been loaded since.

    `torch.compile` is not loaded here, which would take a second.
    """
    global _stance
    if _stance is None and _num_holders and is_compiler_loaded():
        with contextlib.suppress(RuntimeError):  # inside a compiled function, which can no longer run eagerly
            _stance = torch.compiler.set_stance("force_eager")


def is_compiler_loaded() -> bool:
    """Return whether `torch.compile` has been loaded completely."""
    dynamo = sys.modules.get("torch._dynamo")
    return dynamo is not None and "set_stance" in vars(dynamo)  # not `hasattr`, which would load a deferred module


@contextlib.contextmanager
def eagerly() -> Iterator[None]:
    """Run compiled functions eagerly within `with`."""
    global _num_blocks
    hold()
    _num_blocks += 1
    try:
        yield
    finally:
        _num_blocks -= 1
        release()


def is_inside() -> bool:
    """Return whether this is within a block of `eagerly`."""
    return _num_blocks > 0


def is_compiled_in_place(model: nn.Module) -> bool:
    """Return whether `model.compile()` was called on a module or on one of its parts, which shows before a call.

    It walks over all modules, half a microsecond for each: do not call it on every step.
    """
    return is_compiler_loaded() and any(map(is_compiled, model.modules()))


def is_compiled(module: nn.Module) -> bool:
    """Return whether `module.compile()` was called; what `OutermostCalls` puts in the same place does not count."""
    call = getattr(module, "_compiled_call_impl", None)
    while hasattr(call, REPLACED):
        call = getattr(call, REPLACED)
    return call is not None


def is_compiled_wrapper(module: Any) -> bool:
    """Return whether a module is what `torch.compile(module)` returns, which runs another module compiled."""
    return is_compiler_loaded() and isinstance(module, sys.modules["torch._dynamo"].OptimizedModule)
