"""A pass that was interrupted goes on: the same batches, and the same random numbers after them."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset

from stabletrain.torch_tools.random_states import random_states, restore_random_states
from stabletrain.training.resumable_loader import ResumableLoader, ResumableSampler, make_resumable


class Augmented(Dataset):
    """Adds noise to each example, from the generators of all three libraries."""

    def __len__(self) -> int:
        return 11

    def __getitem__(self, index: int) -> torch.Tensor:
        return index + 0.1 * torch.rand(2) + 0.01 * random.random() + 0.001 * np.random.rand()


def make(kind: str, workers: int = 0) -> DataLoader:
    if kind == "sampler":
        data = TensorDataset(torch.arange(22.0).reshape(11, 2))
        return ResumableLoader(data, batch_size=3, sampler=ResumableSampler(data, 1, 0, seed=5, drop_last=True))
    return make_resumable(DataLoader(Augmented(), batch_size=3, shuffle=True, num_workers=workers))


def run(loader: DataLoader, num_epochs: int = 3) -> list[list]:
    """Return for each epoch the batches, each with a number drawn after it, as dropout would."""
    epochs = []
    for epoch in range(num_epochs):
        if isinstance(loader.sampler, ResumableSampler):
            loader.sampler.set_epoch(epoch)
        epochs.append([(batch, torch.rand(1)) for batch in loader])
    return epochs


def flat(epochs: list[list]) -> list[torch.Tensor]:
    tensors = []
    for batch, drawn in (pair for epoch in epochs for pair in epoch):
        tensors += [batch[0] if isinstance(batch, list) else batch, drawn]
    return tensors


@pytest.mark.parametrize(("kind", "workers"), [("sampler", 0), ("shuffled", 0), ("shuffled", 2)])
@pytest.mark.parametrize("position", [1, 3, 4])
def test_a_pass_goes_on_where_it_was(kind, workers, position):
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    loader, expected, state = make(kind, workers), [], None
    for epoch in range(3):
        if kind == "sampler":
            loader.sampler.set_epoch(epoch)
        for number, batch in enumerate(loader, 1):
            drawn = torch.rand(1)
            if state is not None:
                expected.append((batch, drawn))
            if (epoch, number) == (1, position):
                state = loader.snapshot()
    assert state is not None
    torch.manual_seed(9)
    other = make(kind, workers)
    other.restore(state)
    found = []
    for epoch in range(1 if position < len(other) else 2, 3):
        if kind == "sampler":
            other.sampler.set_epoch(epoch)
        found += [(batch, torch.rand(1)) for batch in other]
    assert len(found) == len(expected)
    assert all(torch.equal(a, b) for a, b in zip(flat([found]), flat([expected]), strict=True))


def test_a_state_is_loaded_from_a_file_without_running_code(tmp_path):
    loader = make("shuffled")
    next(iter(loader))
    torch.save(loader.snapshot(), tmp_path / "state.pt")
    loaded = torch.load(tmp_path / "state.pt", weights_only=True)
    restore_random_states(loaded["random"])
    first = torch.rand(3), random.random(), np.random.rand()
    restore_random_states(loader.snapshot() | loaded["random"])
    restore_random_states(loaded["random"])
    second = torch.rand(3), random.random(), np.random.rand()
    assert torch.equal(first[0], second[0])
    assert first[1:] == second[1:]
    restore_random_states(random_states())


def test_a_loader_of_another_class_is_left_as_it_is():
    class Own(DataLoader):
        pass

    loader = Own(Augmented(), batch_size=3)
    assert make_resumable(loader) is loader
    assert type(loader) is Own
    assert make_resumable([loader]) == [loader]
