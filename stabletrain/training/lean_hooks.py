"""Keep Lightning's loop from calling hooks that do nothing. Checked on pytorch-lightning 2.6.6."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.profilers import PassThroughProfiler

from stabletrain.training.module import TrainingModule

STEP_HOOKS = (
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
)
OWN_PACKAGES = ("stabletrain", "pytorch_lightning")
_NOTHING = nullcontext()


class NoProfiler(PassThroughProfiler):
    """Measures nothing, as Lightning's default, without a generator for each call of a hook."""

    def profile(self, action_name: str) -> AbstractContextManager[Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return a context that does nothing."""
        return _NOTHING


def skip_empty_hooks_(trainer: pl.Trainer, module: pl.LightningModule) -> None:
    """Hide the hooks of a step that our own and Lightning's callbacks, and a `TrainingModule`, do not implement.

    Lightning looks up each hook and calls it only if it is callable; the call, with its entry for the profiler, takes
    longer than most of our own hooks. Objects of other packages are left alone: they may call their hooks themselves.
    """
    callbacks: Iterable[Any] = trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]
    for callback in callbacks:
        if type(callback).__module__.partition(".")[0] in OWN_PACKAGES:
            _hide_(callback, Callback)
    if type(module) is TrainingModule:
        _hide_(module, pl.LightningModule)


def _hide_(owner: Any, base: type) -> None:
    for name in STEP_HOOKS:
        if name not in vars(owner) and getattr(type(owner), name) is getattr(base, name):
            object.__setattr__(owner, name, None)
