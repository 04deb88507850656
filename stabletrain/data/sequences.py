"""Made sequences that can only be solved by carrying something through time (Hochreiter and Schmidhuber 1997).

The training set depends on the seed; the validation and test sets come from generators of their own that
do not, so that runs with different seeds are measured on the same sequences.
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

FORMS = ("sequence", "vector")  # the natural one first
SYMBOLS = "ABcdef"  # one channel each: two that inform, four that distract (Pascanu et al. 2013, section 4.1)

# First words of the seeds of numpy's generators: no training set, whatever its seed, shares a stream with these.
TRAIN_STREAM, VAL_STREAM, TEST_STREAM = 1, 2, 3

Problem = Callable[[int, int, np.random.Generator], Split]


def adding_problem(num_sequences: int, num_steps: int, generator: np.random.Generator) -> Split:
    """Draw sequences of numbers of which two are marked: y = x[i, 0] + x[j, 0] where x[i, 1] = x[j, 1] = 1.

    Values are uniform in [0, 1). One marker lies in the first half, [0, ⌊T/2⌋), and one in the second, [⌊T/2⌋, T).
    To predict 1 always makes a mean squared error of 2 · 1/12 = 1/6, about 0.167.

    Args:
        num_sequences: How many sequences, N.
        num_steps: Length T of each, from 2.
        generator: Where the randomness comes from; it moves on.

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
    """Draw symbol sequences that hold two of {A, B} among {c, d, e, f}; the class is the order of the two.

    The first informative symbol lies at a position in [T/10, 2T/10), the second in [5T/10, 6T/10); all others are
    drawn from {c, d, e, f}. Classes: AA 0, AB 1, BA 2, BB 3. Guessing makes a cross-entropy of ln 4 ≈ 1.386.

    Args:
        num_sequences: How many sequences, N.
        num_steps: Length T of each, from 10: below, a window may hold no position.
        generator: Where the randomness comes from; it moves on.

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

    The validation and test sets do not depend on `seed`; only the training set does. See `adding_problem`.

    Args:
        batch_size: Global batch size, from 1 to `num_train`. 16 as in Le et al. 2015.
        num_steps: Length of a sequence, from 2. Papers report 150 to 400 (Le et al. 2015); 50 is a lag of 25 steps
            on average, and an epoch of seconds on a CPU.
        num_train: Training sequences, from 1. 20,000 are 1250 steps an epoch.
        num_val: Validation sequences, from 1. 1000 tell an error from the baseline of 0.167 to about 0.006.
        num_test: Test sequences, from 1. Twice as many as validate, since they are looked at once.
        form: ``sequence`` (T, 2), or ``vector`` (2T), steps one after another; ``auto`` is ``sequence``.
        seed: Which training set, from 0 to 2³² - 1.

    Raises:
        RequestError: An argument is out of its range.

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
        splits = _draw_splits(adding_problem, num_steps, num_train, num_val, num_test, form, seed)
        super().__init__(*splits, batch_size=batch_size, form=form, num_outputs=1)

    @property
    def source(self) -> str:
        """One sentence that says where the numbers come from."""
        return "Adding problem (Hochreiter and Schmidhuber 1997, as in Le et al. 2015), drawn on the spot."


@final
class TemporalOrder(Data):
    """The temporal order problem: in which order did two symbols come, long ago, among distractors.

    The validation and test sets do not depend on `seed`; only the training set does. See `temporal_order_problem`.

    Args:
        batch_size: Global batch size, from 1 to `num_train`. 20 as in Pascanu et al. 2013, section 4.1.
        num_steps: Length of a sequence, from 10. 50 is the shortest in Pascanu et al. 2013, figure 7.
        num_train: Training sequences, from 1. 20,000 are 1000 steps an epoch.
        num_val: Validation sequences, from 1. The paper's success is below 1 % errors: 10 of 1000.
        num_test: Test sequences, from 1. 2000 know an error rate of 1 % to a standard error of 0.2 %.
        form: ``sequence`` (T, 6), or ``vector`` (6T), steps one after another; ``auto`` is ``sequence``.
        seed: Which training set, from 0 to 2³² - 1.

    Raises:
        RequestError: An argument is out of its range.

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
        splits = _draw_splits(temporal_order_problem, num_steps, num_train, num_val, num_test, form, seed)
        super().__init__(*splits, batch_size=batch_size, form=form, num_outputs=4)

    @property
    def source(self) -> str:
        """One sentence that says where the numbers come from."""
        return (
            "Temporal order problem (Hochreiter and Schmidhuber 1997, as in Pascanu et al. 2013, section 4.1), "
            "drawn on the spot."
        )


def _tenths(num_steps: int, tenths: int) -> int:
    """Return the first position at or after `tenths` tenths of the sequence, in exact integers."""
    return -(-tenths * num_steps // 10)


def _draw_splits(
    problem: Problem, num_steps: int, num_train: int, num_val: int, num_test: int, form: str, seed: int
) -> tuple[Split, Split, Split]:
    """Draw the three splits; only the first depends on `seed`. A vector is a sequence laid out flat."""
    counts = (num_train, require_count("num_val", num_val), require_count("num_test", num_test))
    streams = ((TRAIN_STREAM, require_count("seed", seed, 0, MAX_SEED)), (VAL_STREAM, 0), (TEST_STREAM, 0))

    def draw(count: int, stream: tuple[int, int]) -> Split:
        x, y = problem(count, num_steps, np.random.default_rng(stream))
        return (x.flatten(1) if form == "vector" else x), y

    train, val, test = (draw(count, stream) for count, stream in zip(counts, streams, strict=True))
    return train, val, test
