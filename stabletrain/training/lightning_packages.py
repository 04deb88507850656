"""Both packages of Lightning: `pytorch_lightning`, and `lightning.pytorch` of the package `lightning`.

They are the same code with different classes, and the trainer of each refuses callbacks of the other. What a user hands
to a trainer derives from the bases here, which belong to both packages. `lightning` is never imported here: once
somebody else imports it, before or after stabletrain, its classes become bases of these.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import pytorch_lightning as pl
import pytorch_lightning.loggers.logger

OTHER = "lightning.pytorch"


class Callback(pl.Callback):
    """A callback for the trainers of both packages.

    A copy or a pickle of it, such as `save_hyperparameters` puts into each checkpoint, has its arguments and results,
    and no part in the training.
    """

    def _leave_training(self) -> None:
        """Set the attributes that belong to a training in progress to what they are before one."""

    def __getstate__(self) -> dict[str, Any]:
        state = object.__new__(type(self))
        vars(state).update(vars(self))
        state._leave_training()
        return vars(state)


class Logger(pytorch_lightning.loggers.logger.Logger):
    """A logger for the trainers of both packages."""


def is_of_other_package(owner: Any) -> bool:
    """Return whether this is a LightningModule or LightningDataModule of `lightning.pytorch`."""
    other: Any = sys.modules.get(OTHER)
    kinds = [getattr(other, name, None) for name in ("LightningModule", "LightningDataModule")]
    return isinstance(owner, tuple(filter(None, kinds)))


def is_overridden(name: str, owner: Any) -> bool:
    """Return whether a LightningModule or LightningDataModule, of either package, overrides a method."""
    package: Any = sys.modules[OTHER] if is_of_other_package(owner) else pl
    return package.utilities.model_helpers.is_overridden(name, owner)


def _adopt(ours: type, theirs: type) -> None:
    """Make a class of the other package the last base of ours; instances that exist already belong to it too."""
    if not issubclass(ours, theirs):
        ours.__bases__ = (*ours.__bases__, theirs)


_ADOPTED: dict[str, Callable[[Any], None]] = {  # by the module that defines the class
    f"{OTHER}.callbacks.callback": lambda module: _adopt(Callback, module.Callback),
    f"{OTHER}.loggers.logger": lambda module: _adopt(Logger, module.Logger),
}


class _Finder(importlib.abc.MetaPathFinder):
    """Lets the classes be adopted as soon as their module has been imported."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target) if fullname in _ADOPTED else None
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_adopt(module: ModuleType) -> None:
            execute(module)
            _ADOPTED[fullname](module)

        spec.loader.exec_module = execute_and_adopt  # a loader is made for one module
        return spec


def _install() -> None:
    for name, adopt in _ADOPTED.items():
        if name in sys.modules:
            adopt(sys.modules[name])
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


_install()
