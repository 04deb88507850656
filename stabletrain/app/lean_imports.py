"""Keep imports that training does not need out of the command line's process until something needs them.

`import pytorch_lightning` imports all of torchmetrics, with scipy, matplotlib and transformers, for two names, and
torch's compiler, with sympy, for one. On the command line these packages are deferred: the module is in `sys.modules`,
but its code runs when a name is asked for that has no stand-in here, or a submodule that is not listed here. It then
runs in the same module object, so that whoever holds it sees the real package.

Checked on torch 2.13.0, pytorch-lightning 2.6.6 and torchmetrics 1.9.0; with other minor versions nothing is deferred.
Private interfaces on which this relies: `torch._compile._disable_dynamo` caches `torch._dynamo.disable(fn)` as an
attribute `__dynamo_disable` of the function, and `torch.optim.Optimizer` calls nothing else of `torch._dynamo`.
"""

from __future__ import annotations

import functools
import importlib
import logging
import re
import sys
import threading
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

CHECKED = {"torch": "2.13", "pytorch-lightning": "2.6", "torchmetrics": "1.9"}
DYNAMO, METRICS = "torch._dynamo", "torchmetrics"
PACKAGES = (DYNAMO, METRICS)

# Deferred modules inside of torchmetrics, and the submodules that may be imported while it is deferred.
DEFERRED_INSIDE = re.compile(
    r"torchmetrics\.(functional|classification|functional\.classification|regression|functional\.regression|wrappers"
    r"|utilities\.plot)"
)
LEAN_INSIDE = re.compile(
    r"torchmetrics\.(metric|collections|aggregation|utilities(\.\w+)?|wrappers\.(abstract|running)"
    r"|classification\.(base|accuracy|stat_scores)|functional\.classification\.(accuracy|stat_scores)"
    r"|(functional\.)?regression\.mse)"
)
METRICS_HOMES = {
    "Metric": "metric",
    "MetricCollection": "collections",
    "Accuracy": "classification.accuracy",
    "MeanMetric": "aggregation",
    "MeanSquaredError": "regression.mse",
}

_lock = threading.RLock()
_on_load: list[Callable[[], Any]] = []  # what makes up for the stand-in of `torch._dynamo.disable`


class Deferred(ModuleType):
    """A module whose code has not run yet."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name not in ("__all__", "__version__"):  # what `inspect` asks of every module
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        find = STAND_INS.get(self.__name__)
        if find is not None and (found := find(name)) is not None:
            return found
        load(self.__name__)
        return getattr(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("__") and not isinstance(value, ModuleType):  # the import system sets submodules
            load(self.__name__)
        super().__setattr__(name, value)

    def __dir__(self) -> Sequence[str]:
        load(self.__name__)
        return dir(self)


def is_deferred(name: str) -> bool:
    """Return whether a module is in `sys.modules` and its code has not run."""
    return type(sys.modules.get(name)) is Deferred


def load(name: str) -> None:
    """Run the code of a deferred module; inside of a deferred package, that of the package first."""
    with _lock:
        package = next(p for p in PACKAGES if f"{name}.".startswith(f"{p}."))
        for each in dict.fromkeys((package, name)):
            if is_deferred(each):
                _run_code(sys.modules[each])
        if name == DYNAMO:
            while _on_load:
                _on_load.pop()()


def _run_code(module: ModuleType) -> None:
    spec = module.__spec__
    assert spec is not None
    assert isinstance(spec.loader, _Deferring)
    spec.loader = module.__loader__ = spec.loader.real
    module.__class__ = ModuleType
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(module.__name__, None)
        raise


class _Deferring(Loader):
    """Makes a `Deferred` module in place of running the module's code."""

    def __init__(self, real: Any) -> None:
        self.real = real

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return Deferred(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing yet; see `load`."""


class _Present(Loader):
    """Hands over a submodule that was imported while its package was loaded, instead of importing it twice."""

    def __init__(self, module: ModuleType) -> None:
        self.module, self.spec = module, module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self.module

    def exec_module(self, module: ModuleType) -> None:
        """Give the module its own spec back."""
        module.__spec__ = self.spec


class LeanFinder(MetaPathFinder):
    """Defers the packages, and loads them when a submodule is imported that is not listed."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of a deferred module, or None to leave the module to the other finders."""
        package = next((p for p in PACKAGES if f"{fullname}.".startswith(f"{p}.")), None)
        if package is None or target is not None:
            return None
        if fullname == package or (is_deferred(package) and DEFERRED_INSIDE.fullmatch(fullname)):
            return _deferred_spec(fullname, path)
        if not is_deferred(package) or LEAN_INSIDE.fullmatch(fullname):
            return None
        load(package)
        if fullname not in sys.modules:
            return None
        return ModuleSpec(fullname, _Present(sys.modules.pop(fullname)))  # the import system puts it back


def _deferred_spec(name: str, path: Sequence[str] | None) -> ModuleSpec | None:
    spec = PathFinder.find_spec(name, path)
    if spec is None or spec.loader is None or not has_checked_versions():
        return None
    spec.loader = _Deferring(spec.loader)
    return spec


@functools.cache
def has_checked_versions() -> bool:
    """Return whether the installed versions are those that this module was checked on, up to the patch."""
    return all(_version(name).startswith(f"{checked}.") for name, checked in CHECKED.items())


def _version(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def install() -> None:
    """Defer the packages in this process from now on; those that are imported already stay."""
    if not any(isinstance(finder, LeanFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, LeanFinder())


# --- what can be had without running a module's code: its value by name, None for everything else


class _OfDynamo(type):
    """Makes `isinstance` ask the real class, of which there is no object before its module is loaded."""

    def __instancecheck__(cls, instance: Any) -> bool:
        return not is_deferred(DYNAMO) and isinstance(instance, sys.modules[DYNAMO].OptimizedModule)

    def __subclasscheck__(cls, subclass: type) -> bool:
        return not is_deferred(DYNAMO) and issubclass(subclass, sys.modules[DYNAMO].OptimizedModule)


class OptimizedModule(metaclass=_OfDynamo):
    """Stands in for `torch._dynamo.OptimizedModule` in Lightning, which only asks `isinstance`."""


def disable(fn: Any = None, recursive: bool = True, *, reason: str | None = None, wrapping: bool = True) -> Any:
    """Let a function run as it is, which is all that `disable` does to it while nothing can be compiled; see `load`."""
    if fn is None or not is_deferred(DYNAMO):
        load(DYNAMO)
        return sys.modules[DYNAMO].disable(fn, recursive, reason=reason, wrapping=wrapping)
    if not wrapping:  # from `torch._compile`, which keeps the result as an attribute of the function
        _on_load.append(lambda: vars(fn).pop("__dynamo_disable", None))
        return fn
    current = fn

    @functools.wraps(fn)
    def run(*args: Any, **kwargs: Any) -> Any:
        return current(*args, **kwargs)

    def replace() -> None:
        nonlocal current
        current = sys.modules[DYNAMO].disable(fn, recursive, reason=reason)

    _on_load.append(replace)
    return run


def graph_break(msg: str = "") -> None:
    """Do nothing, as the real one does in code that is not being compiled."""


def _find_in_metrics(name: str) -> Any:
    if name == "__version__":
        return _version(METRICS)
    if name == "_logger":
        return logging.getLogger(METRICS)
    if name not in METRICS_HOMES:
        return None
    importlib.import_module(f"{METRICS}.utilities")  # first, as in torchmetrics itself: it and `metric` need each other
    return getattr(importlib.import_module(f"{METRICS}.{METRICS_HOMES[name]}"), name)


def _find_in_plot(name: str) -> Any:
    """Return what torchmetrics has without matplotlib for types, and functions that load the real ones."""
    types = {"_AX_TYPE": object, "_CMAP_TYPE": object, "_PLOT_OUT_TYPE": tuple[object, object]}
    if name in types:
        return types[name]
    if not name.startswith("plot_"):
        return None

    def plot(*args: Any, **kwargs: Any) -> Any:
        load(f"{METRICS}.utilities.plot")
        return getattr(sys.modules[f"{METRICS}.utilities.plot"], name)(*args, **kwargs)

    return plot


STAND_INS: dict[str, Callable[[str], Any]] = {
    DYNAMO: {"OptimizedModule": OptimizedModule, "disable": disable, "graph_break": graph_break}.get,
    METRICS: _find_in_metrics,
    f"{METRICS}.utilities.plot": _find_in_plot,
}
