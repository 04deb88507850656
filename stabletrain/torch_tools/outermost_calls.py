"""Notice the calls of a model that the training loop itself makes, at less than a microsecond each.

A call of a module within another module's call is of no interest here. On the first step all modules are followed, to
learn which ones the loop calls: the model as a rule, or several parts of it. From then on only these are.

Every module has an attribute `_compiled_call_impl`, through which `Module.compile` redirects calls of one instance
(checked with torch 2.13.0). It is neither pickled nor copied, other modules stay as fast as they are, and
`torch.compile` traces through it without a break. The function that is set there calls `Module._call_impl`, or what was
there before. Calls in graph recording (compile, export, trace) are not noticed.
"""

from __future__ import annotations

import gc
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from stabletrain.torch_tools.eager import REPLACED, is_compiled, is_compiler_loaded
from stabletrain.torch_tools.module_hooks import is_transformed

SLOT = "_compiled_call_impl"
MAX_SEARCHES = 3  # for compiled models, at the beginning and after the first steps; each takes some 30 ms
Before = Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], Any]
After = Callable[[Any, Any], None]


class OutermostCalls:
    """Calls `owner.before_call(module, args, kwargs)` and, with what it returned and the output, `owner.after_call`.

    Args:
        model: The model, of which only a weak reference is kept.
        owner: Referenced weakly; with it goes what was set on the modules.
    """

    def __init__(self, model: nn.Module, owner: Any) -> None:
        self._model = weakref.ref(model)
        self._owner = weakref.ref(owner)
        self._depth = 0
        self._seen: dict[int, nn.Module] = {}
        self._learning = True
        self._num_searches = 0
        self._set: list[tuple[weakref.ref[nn.Module], Any, Any]] = []  # module, what was there before, what is there
        compiled = self._find_compiled()
        for module in model.modules() if compiled is None else {id(m): m for m in (model, *compiled)}.values():
            self._follow(module)

    def settle(self) -> None:
        """Follow only what was called until now; call this after the first step, and after each one to keep up."""
        if not self._learning:
            self._keep_up()
            return
        compiled = self._find_compiled()
        if compiled is not None:  # changing a part of it would compile it again
            self._learning = not self._seen
            for module in compiled:
                if not any(ref() is module for ref, *_ in self._set):
                    self._follow(module)
        elif self._seen:
            self._learning = False
            self.close()
            for module in self._seen.values():
                self._follow(module)

    def _keep_up(self) -> None:
        if any((module := ref()) is not None and module.__dict__.get(SLOT) is not new for ref, _, new in self._set):
            self._set = []  # the model was compiled in place since
            for module in self._seen.values():
                self._follow(module)

    def close(self) -> None:
        """Restore what was there before."""
        for ref, old, new in self._set:
            module = ref()
            if module is not None and module.__dict__.get(SLOT) is new:
                _put(module, old)
        self._set = []

    def _find_compiled(self) -> list[nn.Module] | None:
        """Return what `torch.compile` made of the model or its parts, whose own calls are outside of the graph.

        Returns:
            The wrappers, none for modules that were compiled in place; None if nothing was compiled.
        """
        model = self._model()
        self._num_searches += 1
        if model is None or self._num_searches > MAX_SEARCHES or not _was_compiler_used():
            return None
        parts = {id(module) for module in model.modules()}
        kind = sys.modules["torch._dynamo"].OptimizedModule
        found = [x for x in gc.get_objects() if issubclass(type(x), kind) and id(x._modules.get("_orig_mod")) in parts]
        return found if found or any(map(is_compiled, model.modules())) else None

    def _follow(self, module: nn.Module) -> None:
        if isinstance(module, torch.jit.ScriptModule):
            return
        old = module.__dict__.get(SLOT)
        calls, itself = weakref.ref(self), weakref.ref(module)

        def call(*args: Any, **kwargs: Any) -> Any:
            target = itself()
            if torch.compiler.is_compiling():
                return (target._call_impl if old is None else old)(*args, **kwargs)  # pyright: ignore[reportOptionalMemberAccess]
            if threading.current_thread() is not threading.main_thread():
                target = sys._getframe(1).f_locals.get("self", target)  # a replica of `nn.DataParallel` shares the slot
            assert target is not None
            run, own = target._call_impl if old is None else old, calls()
            return run(*args, **kwargs) if own is None else own._run(run, target, args, kwargs)

        setattr(call, REPLACED, old)
        _put(module, call)
        self._set.append((itself, old, call))

    def _run(self, run: Callable[..., Any], module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        owner = self._owner()
        is_followed = torch.is_grad_enabled() and not torch._C._get_tracing_state() and not is_transformed()
        if self._depth or owner is None or not is_followed:
            return run(*args, **kwargs)
        if self._learning:
            self._seen.setdefault(id(module), module)
        noted = owner.before_call(module, args, kwargs)
        self._depth += 1
        try:
            output = run(*args, **kwargs)
        finally:
            self._depth -= 1
        owner.after_call(noted, output)
        return output


def _was_compiler_used() -> bool:
    """Return whether `torch.compile` may have been called, which keeps the backend (checked with torch 2.13.0).

    Optimizers load `torch.compile` to be left out of it, for which there is no backend: None. No backend at all means
    that they were forgotten, by `torch.compiler.reset()`.
    """
    if not is_compiler_loaded():
        return False
    backends = getattr(sys.modules["torch._dynamo"].eval_frame, "cached_backends", None)
    return not backends or any(backend is not None for backend in backends.values())


def _put(module: nn.Module, value: Any) -> None:
    """Set the slot of this instance, past any `__setattr__` of its own."""
    if value is None:
        module.__dict__.pop(SLOT, None)
    else:
        module.__dict__[SLOT] = value
