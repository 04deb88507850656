"""`Data` as a LightningDataModule: the same global batches for any number of processes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, TensorDataset

from stabletrain.data import Data
from stabletrain.errors import RequestError
from stabletrain.training.resumable_loader import ResumableLoader, ResumableSampler


class ShardSampler(Sampler[int]):
    """Samples every `num_shards`-th index, starting at `shard`; no sample is repeated to pad the shards.

    Args:
        size: Number of samples.
        num_shards: Number of processes.
        shard: Rank of this process, from 0.
    """

    def __init__(self, size: int, num_shards: int, shard: int) -> None:
        self._indices = range(shard, size, num_shards)

    def __iter__(self) -> Iterator[int]:
        return iter(self._indices)

    def __len__(self) -> int:
        return len(self._indices)


def eval_batch_size(size: int, num_shards: int, wanted: int) -> int:
    """Return a batch size near `wanted` with which every shard has the same number of batches.

    The shards of `size` samples differ by at most one sample. If that sample became a batch of its own, collective
    calls in the forward pass would hang; this happens only if the batch size divides the smaller shard.

    Args:
        size: Number of samples.
        num_shards: Number of processes.
        wanted: Smallest batch size to return.
    """
    smaller, rest = divmod(size, num_shards)
    batch_size = wanted
    while rest and smaller and smaller % batch_size == 0:
        batch_size += 1
    return batch_size


class WholeBatches(Dataset[tuple[Tensor, ...]]):
    """A `TensorDataset` from which `DataLoader` takes whole batches: one operation per tensor, not one per example.

    Args:
        dataset: The examples.
    """

    def __init__(self, dataset: TensorDataset) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        return self._dataset[index]

    def __getitems__(self, indices: list[int]) -> list[Tensor]:
        """Return what torch's `default_collate` makes of these examples."""
        rows = torch.tensor(indices)
        return [tensor.index_select(0, rows) for tensor in self._dataset.tensors]


def _keep(batch: list[Tensor]) -> list[Tensor]:
    return batch


class DataModule(pl.LightningDataModule):
    """Provides the data loaders of a `Data` to Lightning.

    `batch_size` is global: each of n processes takes batch_size/n samples of every batch, and together they see the
    batches that a single process would see. The order depends on the seed and the epoch only.

    Args:
        data: The data set.
        seed: Seed of the training order.
        num_workers: Number of loader processes per training process.
    """

    def __init__(self, data: Data, seed: int = 0, num_workers: int = 0) -> None:
        super().__init__()
        self.data = data
        self._seed = seed
        self._num_workers = num_workers

    def check(self, world_size: int) -> None:
        """Raise RequestError unless the batch size is a multiple of the number of processes."""
        self._local_batch_size(world_size)

    def _place(self) -> tuple[int, int]:
        trainer = self.trainer
        return (trainer.world_size, trainer.global_rank) if trainer is not None else (1, 0)

    def _local_batch_size(self, world_size: int) -> int:
        local, rest = divmod(self.data.batch_size, world_size)
        if rest or local == 0:
            raise RequestError(
                f"The global batch size is not divisible by the {world_size} processes.",
                key="data.batch_size",
                found=self.data.batch_size,
                allowed=f"a multiple of {world_size}",
                command=f"data.batch_size={max(1, local) * world_size}",
            )
        return local

    def train_dataloader(self) -> DataLoader[Any]:
        """Return shuffled batches; an incomplete last batch is dropped."""
        world_size, rank = self._place()
        train: Any = self.data.train
        sampler = ResumableSampler(train, world_size, rank, shuffle=True, seed=self._seed, drop_last=True)
        return self._loader(ResumableLoader, train, sampler, self._local_batch_size(world_size), drop_last=True)

    def val_dataloader(self) -> DataLoader[Any]:
        """Return the validation set, in order."""
        return self._eval_loader(self.data.val)

    def test_dataloader(self) -> DataLoader[Any]:
        """Return the test set, in order."""
        return self._eval_loader(self.data.test)

    def _eval_loader(self, dataset: Dataset[Any]) -> DataLoader[Any]:
        world_size, rank = self._place()
        size = len(dataset)  # pyright: ignore[reportArgumentType]
        wanted = max(256, self.data.batch_size)  # without gradients, larger batches are faster
        batch_size = eval_batch_size(size, world_size, wanted)
        return self._loader(DataLoader, dataset, ShardSampler(size, world_size, rank), batch_size, drop_last=False)

    def _loader(
        self, kind: type[DataLoader[Any]], dataset: Any, sampler: Any, batch_size: int, drop_last: bool
    ) -> DataLoader[Any]:
        whole = type(dataset) is TensorDataset  # a subclass may change its examples
        return kind(
            WholeBatches(dataset) if whole else dataset,
            collate_fn=_keep if whole else None,
            batch_size=batch_size,
            sampler=sampler,
            drop_last=drop_last,
            num_workers=self._num_workers,
            persistent_workers=self._num_workers > 0,
        )
