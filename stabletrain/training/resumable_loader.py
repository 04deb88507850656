"""Resume in the middle of an epoch: the batches that are left, and the random numbers that would have followed."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from torch.utils.data import DataLoader, DistributedSampler

from stabletrain.torch_tools.random_states import random_states, restore_random_states
from stabletrain.training.lightning_internals import end_restart

LOADER = "loader"
POSITION, AT_EPOCH_START, NOW = "position", "random_at_epoch_start", "random"


class ResumableSampler(DistributedSampler[Any]):
    """A `DistributedSampler` whose next pass leaves out what an interrupted one has seen; its length stays that of all.

    Attributes:
        num_skipped: Number of examples that the next pass leaves out, and only that.
    """

    num_skipped = 0

    def __iter__(self) -> Iterator[Any]:
        first, self.num_skipped = self.num_skipped, 0
        return islice(super().__iter__(), first, None)


class ResumableLoader(DataLoader[Any]):
    """A `DataLoader` whose next pass can begin where an interrupted one was.

    Its state is the number of batches of the running epoch and the states of the global random number generators, at
    the beginning of the epoch, which decided its order, and now. After `restore`, the next pass begins behind
    the batches that were seen. With a `ResumableSampler` they are not read; otherwise they are read and dropped, as
    random augmentation in the workers demands.
    """

    _position = 0
    _at_epoch_start: dict[str, Any] | None = None
    _loaded: dict[str, Any] | None = None

    def __iter__(self) -> Any:
        loaded, self._loaded = self._loaded, None
        is_inside = loaded is not None and 0 < loaded[POSITION] < len(self)
        if loaded is not None:
            restore_random_states(loaded[AT_EPOCH_START if is_inside else NOW])
        self._at_epoch_start, self._position = random_states(), 0
        if loaded is None or not is_inside:
            batches = super().__iter__()
        else:
            batches = self._behind(loaded[POSITION])
            restore_random_states(loaded[NOW])
        for batch in batches:
            self._position += 1
            yield batch

    def _behind(self, position: int) -> Iterator[Any]:
        """Return a pass without its first batches."""
        self._position = position
        if isinstance(self.sampler, ResumableSampler) and self.batch_size is not None:
            self.sampler.num_skipped, position = position * self.batch_size, 0
        batches = super().__iter__()
        for _ in islice(batches, position):
            pass
        return batches

    def snapshot(self) -> dict[str, Any]:
        """Return the position, and the states of the random number generators."""
        now = random_states()
        return {POSITION: self._position, AT_EPOCH_START: self._at_epoch_start or now, NOW: now}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue there, in the next pass."""
        self._loaded = state


def make_resumable(loaders: Any) -> Any:
    """Turn a plain `DataLoader` into a `ResumableLoader`; anything else is returned as it is.

    A loader of a class of its own may iterate in its own way; those of torchdata have a state.
    """
    if type(loaders) is DataLoader:
        loaders.__class__ = ResumableLoader
    return loaders


class _Resumable:
    """Wraps a `train_dataloader` method."""

    def __init__(self, make: Any) -> None:
        self._make = make
        functools.update_wrapper(self, make)  # Lightning looks at whether the method is overridden

    def __call__(self) -> Any:
        return make_resumable(self._make())


class TrainingOrder(Callback):
    """Keeps the state of the training loader in every checkpoint, and restores it.

    A plain `DataLoader` of the user's own is made resumable. Of several loaders, no position is kept.

    Lightning's own way, loaders with a `state_dict`, forgets the state if the number of batches was asked for before
    training, as schedules do, and does not restore the random numbers after an epoch (checked with version 2.6.6).
    """

    def __init__(self) -> None:
        self._trainer: pl.Trainer | None = None
        self._loaded: dict[str, Any] | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Know whose loader it is, before it is asked for."""
        self._trainer = trainer
        owner: Any = getattr(trainer, "datamodule", None) or pl_module
        make = owner.train_dataloader
        if stage == "fit" and not isinstance(make, _Resumable):
            owner.train_dataloader = _Resumable(make)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Give the method back."""
        owner: Any = getattr(trainer, "datamodule", None) or pl_module
        if isinstance(vars(owner).get("train_dataloader"), _Resumable):
            del owner.train_dataloader

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restore the loader, which has not begun its first pass."""
        loader = trainer.train_dataloader
        if self._loaded is not None and isinstance(loader, ResumableLoader):
            loader.restore(self._loaded)
        self._loaded = None

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """End the restart once its first batch has come: schedules take their step at the end of this epoch too."""
        end_restart(trainer)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the loader."""
        loader = None if self._trainer is None else self._trainer.train_dataloader
        return {LOADER: loader.snapshot()} if isinstance(loader, ResumableLoader) else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state until training starts."""
        self._loaded = state_dict.get(LOADER)
