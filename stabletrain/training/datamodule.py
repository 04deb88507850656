"""Any `Data` as Lightning's data module: the same global batches on one process and on several."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytorch_lightning as pl
from torch.utils.data import DataLoader, Dataset, DistributedSampler, Sampler

from stabletrain.data import Data
from stabletrain.errors import RequestError


class ShardSampler(Sampler[int]):
    """Every `num_shards`-th index from `shard` on, each sample once over all shards (none repeated to fill up).

    Args:
        size: Number of samples.
        num_shards: Number of processes.
        shard: This process, from 0.
    """

    def __init__(self, size: int, num_shards: int, shard: int) -> None:
        self._indices = range(shard, size, num_shards)

    def __iter__(self) -> Iterator[int]:
        return iter(self._indices)

    def __len__(self) -> int:
        return len(self._indices)


def eval_batch_size(size: int, num_shards: int, wanted: int) -> int:
    """Return a batch size near `wanted` that gives every shard the same number of batches.

    Shards of `size` samples differ by at most one sample. Collective calls in a forward pass hang if that one
    sample makes a batch of its own, which happens only where the smaller shard fills its batches exactly.
    """
    smaller, rest = divmod(size, num_shards)
    batch_size = wanted
    while rest and smaller and smaller % batch_size == 0:
        batch_size += 1
    return batch_size


class DataModule(pl.LightningDataModule):
    """Feeds a `Data` to Lightning.

    `batch_size` is global: each of n processes takes batch_size/n of every batch, and all of them together see the
    batches that one process would see. The order follows from the seed and the epoch alone.

    Args:
        data: What is trained on.
        seed: Seed of the training order.
        num_workers: Loader processes, per training process.
    """

    def __init__(self, data: Data, seed: int = 0, num_workers: int = 0) -> None:
        super().__init__()
        self.data = data
        self._seed = seed
        self._num_workers = num_workers

    def check(self, world_size: int) -> None:
        """Check that every batch divides over the processes; raise RequestError if not."""
        self._local_batch_size(world_size)

    def _place(self) -> tuple[int, int]:
        trainer = self.trainer
        return (trainer.world_size, trainer.global_rank) if trainer is not None else (1, 0)

    def _local_batch_size(self, world_size: int) -> int:
        local, rest = divmod(self.data.batch_size, world_size)
        if rest or local == 0:
            raise RequestError(
                f"The global batch does not divide over {world_size} processes.",
                key="data.batch_size",
                found=self.data.batch_size,
                allowed=f"a multiple of {world_size}",
                command=f"data.batch_size={max(1, local) * world_size}",
            )
        return local

    def train_dataloader(self) -> DataLoader[Any]:
        """Return shuffled batches; a last incomplete batch is left out."""
        world_size, rank = self._place()
        train: Any = self.data.train
        sampler = DistributedSampler(train, world_size, rank, shuffle=True, seed=self._seed, drop_last=True)
        return self._loader(train, sampler, self._local_batch_size(world_size), drop_last=True)

    def val_dataloader(self) -> DataLoader[Any]:
        """Return the validation set in order."""
        return self._eval_loader(self.data.val)

    def test_dataloader(self) -> DataLoader[Any]:
        """Return the test set in order."""
        return self._eval_loader(self.data.test)

    def _eval_loader(self, dataset: Dataset[Any]) -> DataLoader[Any]:
        world_size, rank = self._place()
        size = len(dataset)  # pyright: ignore[reportArgumentType]
        batch_size = eval_batch_size(size, world_size, max(256, self.data.batch_size))  # no gradients: larger is faster
        return self._loader(dataset, ShardSampler(size, world_size, rank), batch_size, drop_last=False)

    def _loader(self, dataset: Any, sampler: Any, batch_size: int, drop_last: bool) -> DataLoader[Any]:
        return DataLoader(
            dataset,
            batch_size=batch_size,
            sampler=sampler,
            drop_last=drop_last,
            num_workers=self._num_workers,
            persistent_workers=self._num_workers > 0,
        )
