"""The copying problem: symbols to be remembered over a long pause, and given back step by step."""

from __future__ import annotations

import math
from typing import ClassVar, final

import numpy as np
import torch
from torch import Tensor

from stabletrain.data.base import MAX_SEED, Data, Split, Task, require_batch_size, require_count, resolve_form

NUM_SYMBOLS = 8  # to be remembered
NUM_REMEMBERED = 10
BLANK, MARKER = NUM_SYMBOLS, NUM_SYMBOLS + 1
_STREAMS = {"train": 31, "val": 32, "test": 33}  # apart from those of the other generated data sets


@final
class Copying(Data):
    """The copying problem: ten symbols are shown, and after a long pause they are to be given back in order.

    With a pause of T a sequence has T + 20 steps: ten of eight symbols, T - 1 blanks, a marker, ten blanks. At every
    step one of nine classes is asked for: the blank until the marker has passed, then the ten symbols. Without
    memory, the best is to answer blanks and then to guess: a mean cross entropy of 10 ln 8 / (T + 20). The
    validation and test sets do not depend on `seed`; only the training set does.

    Args:
        batch_size: Global batch size, from 1 to `num_train`. 20 as in Arjovsky et al. 2016.
        num_steps: T, steps from the last symbol to the marker, from 1. The source takes 100 to 750; 50 is an epoch
            of seconds on a CPU.
        num_train: Training sequences, from 1. 10,000 are 500 steps an epoch.
        num_val: Validation sequences, from 1. 500 are 5,000 symbols to remember.
        num_test: Test sequences, from 1. Twice as many as validate, since they are looked at once.
        form: ``sequence`` (num_steps + 20, 10), one-hot; ``auto`` is the same.
        seed: Which training set, from 0 to 2³² - 1.

    Raises:
        RequestError: An argument is out of its range.

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
        self._pause = num_steps
        splits: list[Split] = [
            copying_problem(count, num_steps, np.random.default_rng((_STREAMS[split], seed if split == "train" else 0)))
            for split, count in counts.items()
        ]
        super().__init__(*splits, batch_size=batch_size, form=form, num_outputs=NUM_SYMBOLS + 1)

    @property
    def source(self) -> str:
        """One sentence that says where the numbers come from."""
        return (
            f"Copying problem with a pause of {self._pause} (Arjovsky et al. 2016), drawn on the spot; "
            f"without memory the loss is {memoryless_loss(self._pause):.4f}."
        )


def copying_problem(num_sequences: int, num_steps: int, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Draw sequences and what is asked for at each of their steps.

    Args:
        num_sequences: N.
        num_steps: T, steps from the last symbol to the marker.
        generator: Source of chance.

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
    """Return 10 ln 8 / (num_steps + 20), the mean cross entropy of the best guess without memory."""
    return NUM_REMEMBERED * math.log(NUM_SYMBOLS) / (num_steps + 2 * NUM_REMEMBERED)
