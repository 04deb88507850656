"""Keep imports that training does not need out of the command line's process until something needs them.

`import pytorch_lightning` imports all of torchmetrics, with scipy, matplotlib and transformers, for two names, and
torch's compiler, with sympy, for one. On the command line both are deferred; `import stabletrain` defers nothing.

Checked on torch 2.13.0, pytorch-lightning 2.6.6 and torchmetrics 1.9.0; with other minor versions nothing is deferred.
Private interfaces on which this relies: `torch._compile._disable_dynamo` keeps what `torch._dynamo.disable` returns as
an attribute `__dynamo_disable` of the function, and Lightning and `torch.optim` use no other names of `torch._dynamo`
than those that have a stand-in here. Another name, or a submodule, loads it.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import logging
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

from stabletrain.app.lean_start.deferred_modules import Deferral, DeferringFinder, is_deferred, load

CHECKED = {"torch": "2.13", "pytorch-lightning": "2.6", "torchmetrics": "1.9"}
DYNAMO, METRICS, PLOT = "torch._dynamo", "torchmetrics", "torchmetrics.utilities.plot"
METRICS_HOMES = {  # what Lightning and our training import, and the submodules that have it
    "Metric": "metric",
    "MetricCollection": "collections",
    "Accuracy": "classification.accuracy",
    "MeanMetric": "aggregation",
    "MeanSquaredError": "regression.mse",
}
EARLY = re.compile(  # these submodules, and what they import
    r"torchmetrics\.(metric|collections|aggregation|utilities(\.\w+)?|wrappers\.(abstract|running)"
    r"|classification\.(base|accuracy|stat_scores)|functional\.classification\.(accuracy|stat_scores)"
    r"|(functional\.)?regression\.mse)"
)
PACKAGES_INSIDE = ("functional", "classification", "functional.classification", "regression", "functional.regression")

_on_load: list[Callable[[], Any]] = []  # what makes up for the stand-in of `torch._dynamo.disable`


def install() -> None:
    """Defer the packages in this process from now on; those that are imported already stay."""
    if not is_installed():
        sys.meta_path.insert(0, DeferringFinder([_dynamo(), _metrics()], has_checked_versions))


def is_installed() -> bool:
    """Return whether this process defers the packages."""
    return any(isinstance(finder, DeferringFinder) for finder in sys.meta_path)


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


@contextlib.contextmanager
def without_collection() -> Iterator[None]:
    """Import without garbage collection: it would walk all the new objects again and again, a sixth of the time.

    What was imported stays for good, and is not walked later either. This does nothing outside of the command line, and
    once Lightning is there: what an earlier run of this process has left behind must still be freed.
    """
    if not is_installed() or not gc.isenabled() or "pytorch_lightning" in sys.modules:
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _metrics() -> Deferral:
    inside = [f"{METRICS}.{name}" for name in (*PACKAGES_INSIDE, "wrappers")]
    stand_ins = {METRICS: _find_metric, **dict.fromkeys(inside, lambda name: None), PLOT: _find_plot}
    return Deferral(METRICS, stand_ins, EARLY)


def _find_metric(name: str) -> Any:
    if name == "__version__":
        return _version(METRICS)
    if name == "_logger":
        return logging.getLogger(METRICS)
    if name not in METRICS_HOMES:
        return None
    importlib.import_module(f"{METRICS}.utilities")  # first, as in torchmetrics itself: it and `metric` need each other
    return getattr(importlib.import_module(f"{METRICS}.{METRICS_HOMES[name]}"), name)


def _find_plot(name: str) -> Any:
    """Return what torchmetrics has without matplotlib for types, and functions that load the real ones."""
    types = {"_AX_TYPE": object, "_CMAP_TYPE": object, "_PLOT_OUT_TYPE": tuple[object, object]}
    if not name.startswith("plot_"):
        return types.get(name)

    def plot(*args: Any, **kwargs: Any) -> Any:
        load(PLOT)
        return getattr(sys.modules[PLOT], name)(*args, **kwargs)

    return plot


def _dynamo() -> Deferral:
    stand_ins = {"OptimizedModule": OptimizedModule, "disable": disable, "graph_break": graph_break}
    return Deferral(DYNAMO, {DYNAMO: stand_ins.get}, early=re.compile("(?!)"), after=_make_up)


def _make_up() -> None:
    while _on_load:
        _on_load.pop()()


class _OfDynamo(type):
    """Makes `isinstance` ask the real class, of which there is no object before its module is loaded."""

    def __instancecheck__(cls, instance: Any) -> bool:
        return not is_deferred(DYNAMO) and isinstance(instance, sys.modules[DYNAMO].OptimizedModule)

    def __subclasscheck__(cls, subclass: type) -> bool:
        return not is_deferred(DYNAMO) and issubclass(subclass, sys.modules[DYNAMO].OptimizedModule)


class OptimizedModule(metaclass=_OfDynamo):
    """Stands in for `torch._dynamo.OptimizedModule` in Lightning, which only asks `isinstance`."""


def disable(fn: Any = None, recursive: bool = True, *, reason: str | None = None, wrapping: bool = True) -> Any:
    """Let a function run as it is: all that `disable` does to it while nothing can be compiled."""
    if fn is None or not is_deferred(DYNAMO):
        load(DYNAMO)
        return sys.modules[DYNAMO].disable(fn, recursive, reason=reason, wrapping=wrapping)
    if not wrapping:  # from `torch._compile`, which asks again at the next call
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
