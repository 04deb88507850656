"""Forward hooks that store nothing on the modules that they observe.

A hook registered with `module.register_forward_hook` is stored in the module's `__dict__`. It is then pickled, copied
and scripted with the module: `torch.save(model)` fails on a hook that is a local function, and a copy keeps calling
the hooks of the original. The hooks here are kept in a table outside of the modules, in which torch's global forward
hooks look them up while the table is open. Modules can be pickled, copied, traced, scripted, exported and compiled at
any time.

This relies on internals of torch (checked with torch 2.13.0):

- `Module._forward_hooks` identifies a module: replicas of `nn.DataParallel` share it with their original.
- Global hooks run before the hooks of the module itself.
- `torch.compile` guards on global hooks, and compiled code differs from eager code in the last digits. Therefore a
  compiled module (`torch.compile(module)`, `module.compile()`) runs as if no table were open: its layers are not
  hooked, nothing is compiled twice, and training is not changed. Compiled functions run eagerly while a table is open,
  and global hooks do nothing while a graph is recorded. Within `eager.eagerly`, all run eagerly, and are hooked.
- `torch.export.export(strict=True)` rejects every model while there are global hooks; the default, `False`, does not.
- `OptimizedModule.__call__` warns that global hooks are called for the wrapper too. No table contains the wrapper.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from stabletrain.torch_tools import eager

BeforeHook = Callable[[Any, Any, nn.Module, Any], Any]  # (owner, key, module, inputs) -> None, or other inputs
AfterHook = Callable[[Any, Any, nn.Module, Any, Any], Any]  # (owner, key, module, inputs, output) -> None, or another
_Table = dict[int, tuple[Any, Any]]  # id(module._forward_hooks): (that dict, kept so that the id is not reused; key)

_WARNING = r"Using `torch.compile\(module\)` when there are global hooks"


class ModuleHooks:
    """A set of forward hooks, called between `open` and `close`.

    A hook is an unbound method of its owner. The owner is referenced weakly: when it is garbage-collected, its hooks
    are removed. A pickled or copied `ModuleHooks` is closed.

    Args:
        before: Called as `before(owner, key, module, inputs)`; what it returns, unless None, replaces the inputs.
        after: Called as `after(owner, key, module, inputs, output)`; what it returns, unless None, replaces the output.

    Example:
        >>> class Sizes(dict):
        ...     def note(self, key, module, inputs, output):
        ...         self[key] = tuple(output.shape)
        >>> sizes, layer, hooks = Sizes(), nn.Linear(2, 3), ModuleHooks(after=Sizes.note)
        >>> hooks.open(sizes, after=[(layer, "layer")])
        >>> _ = layer(torch.ones(4, 2))
        >>> hooks.close()
        >>> sizes, len(layer._forward_hooks)
        ({'layer': (4, 3)}, 0)
    """

    def __init__(self, before: BeforeHook | None = None, after: AfterHook | None = None) -> None:
        self.before, self.after = before, after
        self._before: _Table = {}
        self._after: _Table = {}
        self._owner: Callable[[], Any] = lambda: None

    @property
    def is_open(self) -> bool:
        """Whether the hooks are being called."""
        return bool(self._before or self._after) and self._owner() is not None

    def open(
        self, owner: Any, *, before: Iterable[tuple[nn.Module, Any]] = (), after: Iterable[tuple[nn.Module, Any]] = ()
    ) -> None:
        """Start calling the hooks, and replace those of an earlier `open`.

        Args:
            owner: The hooks' first argument.
            before: Pairs (module, key) for which `before` is called with that key; each module once.
            after: Pairs (module, key) for which `after` is called with that key; each module once.

        Nothing is opened if one of them was compiled in place (`module.compile()`).
        """
        before, after = [*before], [*after]
        self._owner = weakref.ref(owner)
        self._before, self._after = _table(before), _table(after)
        if not eager.is_inside() and any(map(_is_compiled_in_place, (*before, *after))):
            self._before, self._after = {}, {}
        _update_open(self)

    def close(self) -> None:
        """Stop calling the hooks."""
        if self._before or self._after:
            self._before, self._after = {}, {}
            _update_open(self)

    def __reduce__(self) -> Any:
        return ModuleHooks, (self.before, self.after)


def is_hooked(module: nn.Module) -> bool:
    """Return whether an open `ModuleHooks` has a hook for a module."""
    key = id(module._forward_hooks)
    return any(key in hooks._before or key in hooks._after for ref in _open if (hooks := ref()) is not None)


def forget_collected() -> None:
    """Remove torch's global hooks if every owner has been garbage-collected; otherwise the next `open` or `close` does.

    Garbage collection alone does not remove them, because it may happen while torch iterates over them.
    """
    _update_open(None)


_open: tuple[weakref.ref[ModuleHooks], ...] = ()
_handles: list[Any] = []  # of the global hooks, which are registered while any `ModuleHooks` is open


def _table(hooks: Iterable[tuple[nn.Module, Any]]) -> _Table:
    return {id(module._forward_hooks): (module._forward_hooks, key) for module, key in hooks}


def _update_open(changed: ModuleHooks | None) -> None:
    """Add or remove `changed`, drop garbage-collected entries, and register or remove the global hooks."""
    global _open
    kept = tuple(ref for ref in _open if ref() not in (None, changed))
    _open = kept if changed is None or not changed.is_open else (*kept, weakref.ref(changed))
    if _open:
        _ignore_warning()
        if not _handles:
            _handles.append(register_module_forward_pre_hook(_call_before))
            _handles.append(register_module_forward_hook(_call_after))
            eager.hold()
    elif _handles:
        while _handles:
            _handles.pop().remove()
        eager.release()


def _is_recording() -> bool:
    """Return whether `torch.compile`, `torch.export` or `torch.jit.trace` is recording a graph, or within `torch.func`.

    Values within `vmap` cannot be read.
    """
    is_recording = torch.compiler.is_compiling() or torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
    return is_recording or is_transformed()


def is_transformed() -> bool:
    """Return whether this is within a transform of `torch.func`, such as `vmap` or `grad`."""
    return torch._C._functorch.peek_interpreter_stack() is not None  # pyright: ignore[reportAttributeAccessIssue]


def _call_before(module: nn.Module, inputs: Any) -> Any:
    """Call the hooks of a module before its forward pass."""
    if _is_recording():
        return None
    if eager.is_compiled_wrapper(module) and not eager.is_inside():
        _suspend_during(module)
        return None
    eager.ensure()  # the module may be the wrapper of a compiled one, made after the hooks were opened
    place, changed = id(module._forward_hooks), None
    for ref in _open:
        hooks = ref()
        owner = None if hooks is None else hooks._owner()
        if hooks is None or owner is None:
            _update_open(hooks)
        elif hooks.before is not None and place in hooks._before:
            result = hooks.before(owner, hooks._before[place][1], module, inputs)
            if result is not None:
                inputs = changed = result
    return changed


def _call_after(module: nn.Module, inputs: Any, output: Any) -> Any:
    """Call the hooks of a module after its forward pass."""
    if _is_recording():
        return None
    place, changed = id(module._forward_hooks), None
    for ref in _open:
        hooks = ref()
        owner = None if hooks is None else hooks._owner()
        if hooks is not None and owner is not None and hooks.after is not None and place in hooks._after:
            result = hooks.after(owner, hooks._after[place][1], module, inputs, output)
            if result is not None:
                output = changed = result
    return changed


def _suspend_during(wrapper: nn.Module) -> None:
    """Take the global hooks away for one call of a compiled module, also if it raises."""
    while _handles:
        _handles.pop().remove()
    eager.release()

    def restore(*_: Any) -> None:
        handle.remove()
        _update_open(None)

    handle = wrapper.register_forward_hook(restore, always_call=True)


def _is_compiled_in_place(hooked: tuple[nn.Module, Any]) -> bool:
    return eager.is_compiled(hooked[0])


def _ignore_warning() -> None:
    """Filter the warning, once, since each change of the filters resets which warnings Python has already shown."""
    if eager.is_compiler_loaded() and not any(
        f[0] == "ignore" and _pattern(f[1]) == _WARNING for f in warnings.filters
    ):
        warnings.filterwarnings("ignore", message=_WARNING)


def _pattern(message: Any) -> str | None:
    return getattr(message, "pattern", message)
