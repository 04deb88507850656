"""The same global batches for any number of processes, and as many batches in every process."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, TensorDataset

from stabletrain.data import Digits
from stabletrain.errors import RequestError
from stabletrain.training.datamodule import DataModule, ShardSampler, eval_batch_size


def batches(world_size: int, rank: int, epoch: int = 0, seed: int = 0, batch_size: int = 32):
    module = DataModule(Digits(batch_size=batch_size), seed=seed)
    module.trainer = SimpleNamespace(world_size=world_size, global_rank=rank)  # type: ignore[assignment]
    loader = module.train_dataloader()
    loader.sampler.set_epoch(epoch)
    return [x for x, _ in loader]


def test_two_processes_see_together_the_batches_that_one_sees():
    whole, halves = batches(1, 0), (batches(2, 0), batches(2, 1))
    assert len(whole) == len(halves[0]) == len(halves[1]) == 1257 // 32
    for batch, first, second in zip(whole, *halves, strict=True):
        together = torch.stack([first, second], dim=1).flatten(0, 1)  # the processes alternate
        assert together.equal(batch)


def test_the_order_follows_from_seed_and_epoch():
    assert batches(1, 0)[0].equal(batches(1, 0)[0])
    assert not batches(1, 0)[0].equal(batches(1, 0, epoch=1)[0])
    assert not batches(1, 0)[0].equal(batches(1, 0, seed=1)[0])


@pytest.mark.parametrize("num_workers", [0, 1])
def test_whole_batches_are_those_of_the_default_loader(num_workers):
    data = Digits()
    ours = DataModule(data, num_workers=num_workers)
    for loader in (ours.train_dataloader(), ours.val_dataloader(), ours.test_dataloader()):
        plain = DataLoader(
            TensorDataset(*loader.dataset[:]), loader.batch_size, sampler=loader.sampler, drop_last=loader.drop_last
        )
        torch.manual_seed(0)
        found = list(loader)
        state = torch.get_rng_state()
        torch.manual_seed(0)
        expected = list(plain)
        assert torch.get_rng_state().equal(state)
        assert len(found) == len(expected) > 0
        for batch, other in zip(found, expected, strict=True):
            assert type(batch) is type(other) is list
            for tensor, wanted in zip(batch, other, strict=True):
                assert tensor.equal(wanted)
                assert (tensor.dtype, tensor.stride()) == (wanted.dtype, wanted.stride())


def test_a_dataset_that_changes_its_examples_is_asked_for_each_one():
    class Doubled(TensorDataset):
        def __getitem__(self, index):
            x, y = super().__getitem__(index)
            return 2 * x, y

    data = Digits()
    plain = next(iter(DataModule(data).val_dataloader()))[0]
    data.val = Doubled(*data.val.tensors)
    assert next(iter(DataModule(data).val_dataloader()))[0].equal(2 * plain)


@given(st.integers(0, 60), st.integers(1, 7))
def test_shards_hold_each_sample_once(size, num_shards):
    shards = [list(ShardSampler(size, num_shards, i)) for i in range(num_shards)]
    assert sorted(i for shard in shards for i in shard) == list(range(size))
    assert [len(ShardSampler(size, num_shards, i)) for i in range(num_shards)] == [len(s) for s in shards]


@given(st.integers(1, 500), st.integers(1, 8), st.integers(1, 64))
def test_every_shard_has_the_same_number_of_batches(size, num_shards, wanted):
    batch_size = eval_batch_size(size, num_shards, wanted)
    counts = {math.ceil(len(ShardSampler(size, num_shards, i)) / batch_size) for i in range(num_shards)}
    assert len(counts) == 1 or size < num_shards  # the remaining case, fewer samples than processes, is refused earlier


def test_a_batch_that_does_not_divide_is_refused():
    module = DataModule(Digits(batch_size=33))
    module.check(3)
    with pytest.raises(RequestError) as error:
        module.check(2)
    assert error.value.key == "data.batch_size"
    with pytest.raises(RequestError):
        DataModule(Digits(batch_size=1)).check(2)
