"""Splits that build their examples on access, and reading any split in order to check it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

MAX_SCANNED = 10_000  # examples of a split that are checked where they are built one by one
BLOCK = 256  # examples stacked at a time


class LazySplit(Dataset[tuple[Tensor, Tensor]], ABC):
    """A map-style Dataset of pairs (x, y) whose inputs are never all in memory.

    Attributes:
        max_scanned: Number of examples that a check reads; small where they were all read at construction.
    """

    max_scanned: int = MAX_SCANNED

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of examples."""

    @abstractmethod
    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return one input and its target."""

    @abstractmethod
    def numbers(self) -> Sequence[Tensor]:
        """Return the tensors that determine all examples, to be hashed."""


def numbers_of(split: Dataset[Any]) -> Sequence[Tensor]:
    """Return the tensors that determine a split; for a Dataset of unknown kind, its first examples."""
    if isinstance(split, TensorDataset):
        return split.tensors
    return split.numbers() if isinstance(split, LazySplit) else [t for pair in blocks_of(split) for t in pair]


def blocks_of(split: Dataset[Any]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield stacked inputs and targets of a split in order; a `TensorDataset` in one piece."""
    if isinstance(split, TensorDataset):
        inputs, targets = split.tensors
        yield inputs, targets
        return
    examples = cast(Any, split)
    size = min(len(examples), getattr(split, "max_scanned", MAX_SCANNED))
    for start, stop in pairwise([*range(0, size, BLOCK), size]):
        inputs, targets = zip(*(examples[index] for index in range(start, stop)), strict=True)
        yield torch.stack(inputs), torch.stack(targets)
