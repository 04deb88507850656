"""The callback's note on spinning threads."""

from types import SimpleNamespace

import pytest
import torch

from stabletrain.training.callbacks import spinning_threads
from stabletrain.training.callbacks.spinning_threads import SpinningThreads


class Busy:
    """In place of `PoolWatch`: recognizes a spinning pool on the third step."""

    def __init__(self, say):
        self.say, self.num_steps = say, 0

    def step(self):
        self.num_steps += 1
        if self.num_steps == 3:
            self.say(2, 0.61)


@pytest.mark.parametrize(("device", "is_first", "num_notes"), [("cpu", True, 1), ("meta", True, 0), ("cpu", False, 0)])
def test_it_is_said_once_by_the_first_process_on_the_cpu(monkeypatch, device, is_first, num_notes):
    monkeypatch.setattr(spinning_threads, "PoolWatch", Busy)
    said, trainer = [], SimpleNamespace(is_global_zero=is_first)
    callback, module = SpinningThreads(said.append), SimpleNamespace(device=torch.device(device))
    callback.on_train_start(trainer, module)
    for i in range(6):
        callback.on_train_batch_end(trainer, module, None, None, i)
    assert len(said) == num_notes
    assert all("2 threads" in note and "threads=1" in note for note in said)
