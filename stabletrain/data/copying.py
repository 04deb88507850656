"""The copying problem: remember symbols over a long delay, then output them step by step."""

from __future__ import annotations

import math
from typing import ClassVar, final

import numpy as np
import torch
from torch import Tensor

from stabletrain.data.base import MAX_SEED, Data, Split, Task, require_batch_size, require_count, resolve_form

NUM_SYMBOLS = 8  # that may have to be remembered
NUM_REMEMBERED = 10
BLANK, MARKER = NUM_SYMBOLS, NUM_SYMBOLS + 1
_STREAMS = {"train": 31, "val": 32, "test": 33}  # different from those of the other generated data sets


@final
class Copying(Data):
    """The copying problem: the network sees ten symbols and must output them in order after a long delay.

    With a delay of T, a sequence has T + 20 steps: ten symbols out of eight kinds, T - 1 blanks, a marker, ten blanks.
    The target at every step is one of nine classes: blank up to and including the marker, then the ten symbols. The
    best strategy without memory outputs blanks and then all symbols with equal probability, for a mean cross-entropy of
    10 ln 8 / (T + 20). Only the training set depends on `seed`.

    Args:
        batch_size: Global batch size, from 1 to `num_train`. 20 as in Arjovsky et al. 2016.
        num_steps: T, steps from the last symbol to the marker, from 1. The reference uses 100 to 750; with 50 an
            epoch takes seconds on a CPU.
        num_train: Training sequences, from 1. 10,000 are 500 steps per epoch.
        num_val: Validation sequences, from 1. 500 contain 5,000 symbols to remember.
        num_test: Test sequences, from 1. Twice as many as for validation, since they are used once.
        form: ``sequence`` (num_steps + 20, 10), one-hot; the same as ``auto``.
        seed: Seed of the training set, from 0 to 2³² - 1.

    Raises:
        RequestError: An argument is out of range.

    References:
        Hochreiter and Schmidhuber 1997; in this form Arjovsky, Shah and Bengio 2016, Unitary Evolution Recurrent
        Neural Networks, the copying memory problem of its experiments.

    Example:
        >>> data = Copying(num_steps=5, num_train=20)
        >>> data.num_steps, data.num_inputs, data.num_outputs
        (25, 10, 9)
    """

    name: ClassVar[str] = "copy"
    forms: ClassVar[tuple[str, ...]] = ("sequence",)
    per_step: bool = True
    task: Task = "classification"

    def __init__(
        self,
        batch_size: int = 20,
        num_steps: int = 50,
        num_train: int = 10_000,
        num_val: int = 500,
        num_test: int = 1_000,
        form: str = "auto",
        seed: int = 0,
    ) -> None:
        require_count("num_steps", num_steps)
        form = resolve_form(form, self.forms)
        require_batch_size(batch_size, require_count("num_train", num_train))
        seed = require_count("seed", seed, 0, MAX_SEED)
        counts = {"train": num_train, "val": require_count("num_val", num_val)}
        counts["test"] = require_count("num_test", num_test)
        self._delay = num_steps
        splits: list[Split] = [
            copying_problem(count, num_steps, np.random.default_rng((_STREAMS[split], seed if split == "train" else 0)))
            for split, count in counts.items()
        ]
        super().__init__(*splits, batch_size=batch_size, form=form, num_outputs=NUM_SYMBOLS + 1)

    @property
    def source(self) -> str:
        """Where the data come from, in one sentence."""
        return (
            f"Copying problem with a delay of {self._delay} (Arjovsky et al. 2016), generated; "
            f"without memory the loss is {memoryless_loss(self._delay):.4f}."
        )


def copying_problem(num_sequences: int, num_steps: int, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Generate sequences, and the target class at each of their steps.

    Args:
        num_sequences: N.
        num_steps: T, steps from the last symbol to the marker.
        generator: Random number generator.

    Returns:
        Inputs, one-hot float32 (N, num_steps + 20, 10), and classes, int64 (N, num_steps + 20).
    """
    symbols = generator.integers(0, NUM_SYMBOLS, (num_sequences, NUM_REMEMBERED))
    length = num_steps + 2 * NUM_REMEMBERED
    shown = np.full((num_sequences, length), BLANK)
    shown[:, :NUM_REMEMBERED] = symbols
    shown[:, NUM_REMEMBERED + num_steps - 1] = MARKER
    asked = np.full((num_sequences, length), BLANK)
    asked[:, -NUM_REMEMBERED:] = symbols
    inputs = np.eye(NUM_SYMBOLS + 2, dtype=np.float32)[shown]
    return torch.from_numpy(inputs), torch.from_numpy(asked.astype(np.int64))


def memoryless_loss(num_steps: int) -> float:
    """Return 10 ln 8 / (num_steps + 20), the mean cross-entropy of the best strategy without memory."""
    return NUM_REMEMBERED * math.log(NUM_SYMBOLS) / (num_steps + 2 * NUM_REMEMBERED)
