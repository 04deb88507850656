"""Modules whose code runs when a name is first asked for that has no stand-in.

A deferred module is in `sys.modules`, and its code later runs in the same object, so that whoever imported it sees the
real module. Unlike `importlib.util.LazyLoader`, it can give some names without running its code, and some of its
submodules can be imported before it.
"""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

_lock = threading.RLock()
_packages: dict[str, Deferral] = {}


@dataclass(frozen=True)
class Deferral:
    """How a package is deferred.

    Attributes:
        package: Its name.
        stand_ins: Of the package, and of modules inside of it that are deferred too: a function that returns what
            stands for a name, or None if the module's code has to run.
        early: Submodules that may be imported while the package is deferred; any other one loads it.
        after: Called when the package has been loaded.
    """

    package: str
    stand_ins: Mapping[str, Callable[[str], Any]]
    early: re.Pattern[str]
    after: Callable[[], None] = lambda: None


class Deferred(ModuleType):
    """A module whose code has not run yet."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name not in ("__all__", "__version__"):  # what `inspect` asks of every module
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        found = _deferral_of(self.__name__).stand_ins[self.__name__](name)
        if found is not None:
            return found
        load(self.__name__)
        return getattr(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("__") and not isinstance(value, ModuleType):  # the import system sets submodules
            load(self.__name__)
        ModuleType.__setattr__(self, name, value)  # of its class now, which `load` has changed

    def __dir__(self) -> Sequence[str]:
        load(self.__name__)
        return dir(self)


def is_deferred(name: str) -> bool:
    """Return whether a module is in `sys.modules` and its code has not run."""
    return type(sys.modules.get(name)) is Deferred


def load(name: str) -> None:
    """Run the code of a deferred module; inside of a deferred package, that of the whole package."""
    with _lock:
        deferral = _deferral_of(name)
        if is_deferred(deferral.package):
            _run_code(deferral.package)  # and of what it imports names from, as they are asked for
            for inside in deferral.stand_ins:
                _run_code(inside)
            deferral.after()
        _run_code(name)


def _deferral_of(name: str) -> Deferral:
    return next(d for d in _packages.values() if f"{name}.".startswith(f"{d.package}."))


def _run_code(name: str) -> None:
    if not is_deferred(name):
        return
    module = sys.modules[name]
    spec = module.__spec__
    assert spec is not None
    assert isinstance(spec.loader, _Deferring)
    real = spec.loader.real
    spec.loader = module.__loader__ = real
    module.__class__ = ModuleType
    try:
        real.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
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


class DeferringFinder(MetaPathFinder):
    """Defers packages, and loads them when a submodule is imported that may not be imported early.

    Args:
        may_defer: Asked at the first import of a package; if it returns False, the package is imported as usual.
    """

    def __init__(self, deferrals: Sequence[Deferral], may_defer: Callable[[], bool]) -> None:
        self.may_defer = may_defer
        _packages.update({d.package: d for d in deferrals})

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of a deferred module, or None to leave the module to the other finders."""
        deferral = next((d for d in _packages.values() if f"{fullname}.".startswith(f"{d.package}.")), None)
        if deferral is None or target is not None:
            return None
        is_package = fullname == deferral.package
        if not is_package and not is_deferred(deferral.package):
            return None
        if fullname in deferral.stand_ins:
            return self._deferred_spec(fullname, path)
        if deferral.early.fullmatch(fullname):
            return None
        load(deferral.package)
        if fullname not in sys.modules:
            return None
        return ModuleSpec(fullname, _Present(sys.modules.pop(fullname)))  # the import system puts it back

    def _deferred_spec(self, name: str, path: Sequence[str] | None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path)
        if spec is None or spec.loader is None or not self.may_defer():
            return None
        spec.loader = _Deferring(spec.loader)
        return spec
