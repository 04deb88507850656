"""What is needed of Lightning beyond its documented interface. Checked on pytorch-lightning 2.6.6."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytorch_lightning as pl
from pytorch_lightning.utilities.model_helpers import is_overridden

LOGGING = ("log", "log_dict")


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
