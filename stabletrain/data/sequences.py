"""Synthetic sequence problems that require memory over many steps (Hochreiter and Schmidhuber 1997).

Only the training set depends on the seed. The validation and test sets have fixed seeds of their own, so that runs with
different seeds are evaluated on the same sequences.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, final

import numpy as np
import torch

from stabletrain.data.base import (
    MAX_SEED,
    Data,
    Split,
    Task,
    require_batch_size,
    require_count,
    resolve_form,
)

FORMS = ("sequence", "vector")  # the default first
SYMBOLS = "ABcdef"  # one channel each: two are informative, four are distractors (Pascanu et al. 2013, section 4.1)

# First words of the seeds of numpy's generators: no training set shares its stream with another split.
TRAIN_STREAM, VAL_STREAM, TEST_STREAM = 1, 2, 3

Problem = Callable[[int, int, np.random.Generator], Split]


def adding_problem(num_sequences: int, num_steps: int, generator: np.random.Generator) -> Split:
    """Generate sequences of numbers of which two are marked: y = x[i, 0] + x[j, 0] where x[i, 1] = x[j, 1] = 1.

    Values are uniform in [0, 1). One marker lies in the first half, [0, ⌊T/2⌋), and one in the second, [⌊T/2⌋, T).
    Always predicting 1 gives a mean squared error of 2 · 1/12 = 1/6 ≈ 0.167.

    Args:
        num_sequences: Number of sequences, N.
        num_steps: Length T of each, from 2.
        generator: Random number generator; its state advances.

    Returns:
        Inputs, float32 (N, T, 2): value and marker; and targets, float32 (N, 1).

    References:
        Hochreiter and Schmidhuber 1997, experiment 4; Le, Jaitly and Hinton 2015, section 4.1.
    """
    x = np.zeros((num_sequences, num_steps, 2), dtype=np.float32)
    x[:, :, 0] = generator.random((num_sequences, num_steps), dtype=np.float32)
    rows = np.arange(num_sequences)
    first = generator.integers(0, num_steps // 2, num_sequences)
    second = generator.integers(num_steps // 2, num_steps, num_sequences)
    x[rows, first, 1] = 1.0
    x[rows, second, 1] = 1.0
    y = x[rows, first, 0] + x[rows, second, 0]  # (N,)
    return torch.from_numpy(x), torch.from_numpy(y[:, None])


def temporal_order_problem(num_sequences: int, num_steps: int, generator: np.random.Generator) -> Split:
    """Generate sequences of {c, d, e, f} with two symbols of {A, B} among them; the class is their order.

    The position of the first informative symbol is in [T/10, 2T/10), of the second in [5T/10, 6T/10); all others are
    sampled from {c, d, e, f}. Classes: AA 0, AB 1, BA 2, BB 3. Chance level is a cross-entropy of ln 4 ≈ 1.386.

    Args:
        num_sequences: Number of sequences, N.
        num_steps: Length T of each, from 10: below that, a window may contain no position.
        generator: Random number generator; its state advances.

    Returns:
        Inputs, float32 one-hot (N, T, 6) in the order of `SYMBOLS`; and classes, int64 (N,).

    References:
        Hochreiter and Schmidhuber 1997, experiment 6a; Pascanu, Mikolov and Bengio 2013, section 4.1.
    """
    symbols = generator.integers(2, len(SYMBOLS), (num_sequences, num_steps))
    rows = np.arange(num_sequences)
    informative = generator.integers(0, 2, (2, num_sequences))
    for symbol, tenth in zip(informative, (1, 5), strict=True):
        position = generator.integers(_tenths(num_steps, tenth), _tenths(num_steps, tenth + 1), num_sequences)
        symbols[rows, position] = symbol
    one_hot = np.eye(len(SYMBOLS), dtype=np.float32)[symbols]  # (N, T, 6)
    return torch.from_numpy(one_hot), torch.from_numpy(2 * informative[0] + informative[1])


@final
class Adding(Data):
    """The adding problem: the sum of two marked numbers, far apart in a sequence of noise.

    Only the training set depends on `seed`. See `adding_problem`.

    Args:
        batch_size: Global batch size, from 1 to `num_train`. 16 as in Le et al. 2015.
        num_steps: Length of a sequence, from 2. Papers report 150 to 400 (Le et al. 2015); 50 is a lag of 25 steps
            on average, with epochs of seconds on a CPU.
        num_train: Training sequences, from 1. 20,000 are 1250 steps per epoch.
        num_val: Validation sequences, from 1. With 1000 the baseline error of 0.167 is known to about 0.006.
        num_test: Test sequences, from 1. Twice as many as for validation, since they are used once.
        form: ``sequence`` (T, 2), or ``vector`` (2T), the steps concatenated; ``auto`` is ``sequence``.
        seed: Seed of the training set, from 0 to 2³² - 1.

    Raises:
        RequestError: An argument is out of range.

    Example:
        >>> Adding(num_steps=10).num_inputs
        2
    """

    name: ClassVar[str] = "adding"
    forms: ClassVar[tuple[str, ...]] = ("sequence", "vector")
    task: Task = "regression"

    def __init__(
        self,
        batch_size: int = 16,
        num_steps: int = 50,
        num_train: int = 20_000,
        num_val: int = 1_000,
        num_test: int = 2_000,
        form: str = "auto",
        seed: int = 0,
    ) -> None:
        require_count("num_steps", num_steps, 2)
        form = resolve_form(form, FORMS)
        require_batch_size(batch_size, require_count("num_train", num_train))
        splits = _make_splits(adding_problem, num_steps, num_train, num_val, num_test, form, seed)
        super().__init__(*splits, batch_size=batch_size, form=form, num_outputs=1)

    @property
    def source(self) -> str:
        """Where the data come from, in one sentence."""
        return "Adding problem (Hochreiter and Schmidhuber 1997, as in Le et al. 2015), generated."


@final
class TemporalOrder(Data):
    """The temporal order problem: the order of two symbols seen long ago among distractors.

    Only the training set depends on `seed`. See `temporal_order_problem`.

    Args:
        batch_size: Global batch size, from 1 to `num_train`. 20 as in Pascanu et al. 2013, section 4.1.
        num_steps: Length of a sequence, from 10. 50 is the shortest in Pascanu et al. 2013, figure 7.
        num_train: Training sequences, from 1. 20,000 are 1000 steps per epoch.
        num_val: Validation sequences, from 1. The paper counts an error rate below 1% as success: 10 of 1000.
        num_test: Test sequences, from 1. With 2000, an error rate of 1% has a standard error of 0.2%.
        form: ``sequence`` (T, 6), or ``vector`` (6T), the steps concatenated; ``auto`` is ``sequence``.
        seed: Seed of the training set, from 0 to 2³² - 1.

    Raises:
        RequestError: An argument is out of range.

    Example:
        >>> TemporalOrder(form="vector", num_steps=20).num_inputs
        120
    """

    name: ClassVar[str] = "temporal_order"
    forms: ClassVar[tuple[str, ...]] = ("sequence", "vector")
    task: Task = "classification"

    def __init__(
        self,
        batch_size: int = 20,
        num_steps: int = 50,
        num_train: int = 20_000,
        num_val: int = 1_000,
        num_test: int = 2_000,
        form: str = "auto",
        seed: int = 0,
    ) -> None:
        require_count("num_steps", num_steps, 10)
        form = resolve_form(form, FORMS)
        require_batch_size(batch_size, require_count("num_train", num_train))
        splits = _make_splits(temporal_order_problem, num_steps, num_train, num_val, num_test, form, seed)
        super().__init__(*splits, batch_size=batch_size, form=form, num_outputs=4)

    @property
    def source(self) -> str:
        """Where the data come from, in one sentence."""
        return (
            "Temporal order problem (Hochreiter and Schmidhuber 1997, as in Pascanu et al. 2013, section 4.1), "
            "generated."
        )


def _tenths(num_steps: int, tenths: int) -> int:
    """Return the first position at or after `tenths` tenths of the sequence, in exact integers."""
    return -(-tenths * num_steps // 10)


def _make_splits(
    problem: Problem, num_steps: int, num_train: int, num_val: int, num_test: int, form: str, seed: int
) -> tuple[Split, Split, Split]:
    """Generate the three splits, of which only the first depends on `seed`. A vector is a flattened sequence."""
    counts = (num_train, require_count("num_val", num_val), require_count("num_test", num_test))
    streams = ((TRAIN_STREAM, require_count("seed", seed, 0, MAX_SEED)), (VAL_STREAM, 0), (TEST_STREAM, 0))

    def make(count: int, stream: tuple[int, int]) -> Split:
        x, y = problem(count, num_steps, np.random.default_rng(stream))
        return (x.flatten(1) if form == "vector" else x), y

    train, val, test = (make(count, stream) for count, stream in zip(counts, streams, strict=True))
    return train, val, test
