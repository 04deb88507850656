"""What is needed of Lightning beyond its documented interface. Checked on pytorch-lightning 2.6.6, torch 2.13.0."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytorch_lightning as pl
from torch import Tensor
from torch.optim import Optimizer

from stabletrain.training.lightning_packages import is_overridden

HOOK_NAME = "_current_fx_name"  # attribute of a module: the hook that Lightning is calling
LOGGING = ("log", "log_dict", "note_loss")


def has_hook(name: str, owner: pl.LightningModule | pl.LightningDataModule) -> bool:
    """Return whether a module or data module implements a method that Lightning leaves open, such as `test_step`."""
    return is_overridden(name, owner)


@contextmanager
def muted(module: pl.LightningModule) -> Iterator[None]:
    """Discard what the module logs; outside of a trainer's loop, `log` would warn or raise."""
    for name in LOGGING:
        object.__setattr__(module, name, lambda *_, **__: None)  # shadows the method; Lightning has no switch for it
    try:
        yield
    finally:
        for name in LOGGING:
            object.__delattr__(module, name)


def is_logged_step(trainer: pl.Trainer) -> bool:
    """Return whether Lightning passes the metrics of the current step to the loggers, once the step is done."""
    # as in `_LoggerConnector.update_train_step_metrics`
    module = trainer.lightning_module
    if module.automatic_optimization and trainer.fit_loop._should_accumulate():
        return False
    return trainer._logger_connector.should_update_logs or bool(trainer.fast_dev_run)  # pyright: ignore[reportAttributeAccessIssue]


def log_now(trainer: pl.Trainer, values: Mapping[str, Tensor]) -> None:
    """Pass metrics of the current step to all loggers, with the epoch and the step number of `LightningModule.log`."""
    trainer._logger_connector.log_metrics(dict(values))


def set_callback_metrics(trainer: pl.Trainer, values: Mapping[str, Tensor]) -> None:
    """Set values in `trainer.callback_metrics`, without recomputing what was logged, as that property does."""
    trainer._logger_connector._callback_metrics.update(values)


def set_progress_bar_metrics(trainer: pl.Trainer, values: Mapping[str, float]) -> None:
    """Set values in `trainer.progress_bar_metrics`."""
    trainer._logger_connector._progress_bar_metrics.update(values)


def unscale_before_step_(optimizer: Optimizer) -> None:
    """Make Lightning unscale the gradients before they are measured and clipped, for a fused optimizer too.

    Under a loss scaler a fused optimizer unscales inside its step, and Lightning leaves that to it: until then the
    gradients are about 65,536 times too large.
    """
    # Read by torch.amp.GradScaler and by Lightning's MixedPrecision plugin; torch 2.13.0, pytorch-lightning 2.6.6.
    if getattr(optimizer, "_step_supports_amp_scaling", False):
        optimizer._step_supports_amp_scaling = False  # pyright: ignore[reportAttributeAccessIssue]
