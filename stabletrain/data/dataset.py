"""User-defined torch Datasets, split and checked like the built-in data sets."""

from __future__ import annotations

from typing import Any, ClassVar, final

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from stabletrain.data.base import MAX_SEED, Data, Task, require_count
from stabletrain.data.lazy import LazySplit
from stabletrain.data.scan import Scan, refuse, scan, to_tensor
from stabletrain.data.splits import split_rows, split_sizes
from stabletrain.errors import require_choice
from stabletrain.torch_tools.isolation import preserve_rng

MIN_PER_SPLIT = 1


class ExampleSplit(LazySplit):
    """A subset of a Dataset, read anew on each access: random augmentation differs in every epoch.

    Args:
        dataset: Returns pairs (x, y).
        rows: Indices of the examples in the subset, int64 (n,).
        known: What `scan` found in the Dataset.
    """

    max_scanned = 256  # `scan` has checked them already

    def __init__(self, dataset: Dataset[Any], rows: np.ndarray, known: Scan) -> None:
        self._dataset, self._rows, self._known = dataset, rows, known

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self._rows)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return an input, float32, and its target, int64 or float32."""
        row = int(self._rows[index])
        x, y = self._dataset[row]
        x, y = to_tensor(x).to(torch.float32), to_tensor(y)
        if self._known.task == "regression":
            y = y.to(torch.float32)
            return x, y if y.dim() else y[None]
        y = y.to(torch.int64)
        if not 0 <= int(y.min()) <= int(y.max()) < self._known.num_outputs:
            allowed = f"0 to {self._known.num_outputs - 1}; or a Dataset with `num_classes`"
            raise refuse("returns a label beyond those found before training", f"{y.tolist()} at index {row}", allowed)
        return x, y

    def numbers(self) -> list[Tensor]:
        """Return the hash of what `scan` read, and the indices of the examples."""
        return [torch.tensor(list(self._known.fingerprint), dtype=torch.uint8), torch.from_numpy(self._rows)]


@final
class DatasetData(Data):
    """A map-style Dataset of pairs (x, y), split at random.

    A 1-D input is a vector, a 2-D input a sequence (steps, features), a 3-D input an image (channels, height, width).
    Integer targets are classes 0 to K − 1, one for each example or, for sequences, one for each step; all others are
    targets of a regression. Nothing is standardized: the network gets what the Dataset returns.

    K is taken from the attributes `num_classes` or `classes` of the Dataset, or is the highest label plus one.

    Args:
        dataset: With `__len__` and `__getitem__`.
        batch_size: Global batch size, from 1 to the size of the training set.
        val_fraction: Fraction of the examples used for validation, above 0.
        test_fraction: Fraction of the examples used for testing, above 0; the two fractions add up to less than 1.
        seed: Seed of the split, from 0 to 2³² - 1. The split is stratified where the label of every example is known:
            for up to 10,000 examples, or from the `targets` of the Dataset.
        task: ``classification``, ``regression``, or ``auto`` to decide by the dtype of the targets.

    Raises:
        RequestError: The Dataset does not return such pairs (see `scan`), or an argument is out of range.
    """

    name: ClassVar[str] = "custom"
    forms: ClassVar[tuple[str, ...]] = ()  # only that of the Dataset

    def __init__(
        self,
        dataset: Dataset[Any],
        batch_size: int = 32,
        val_fraction: float = 0.15,
        test_fraction: float = 0.15,
        seed: int = 0,
        task: str = "auto",
    ) -> None:
        require_count("batch_size", batch_size)
        seed = require_count("seed", seed, 0, MAX_SEED)
        require_choice("task", task, ["auto", "classification", "regression"])
        self._origin = f"{type(dataset).__module__}.{type(dataset).__qualname__}"
        known = scan(dataset, task)
        self.task: Task = known.task
        self.per_step = known.per_step
        count = len(dataset)  # pyright: ignore[reportArgumentType]
        num_val, num_test = split_sizes(count, val_fraction, test_fraction, MIN_PER_SPLIT, "examples")
        train, val, test = (
            ExampleSplit(dataset, rows, known) for rows in split_rows(count, num_val, num_test, seed, known.labels)
        )
        with preserve_rng():  # the first example is read once more
            super().__init__(train, val, test, batch_size=batch_size, form=known.form, num_outputs=known.num_outputs)

    @property
    def source(self) -> str:
        """Where the data come from, in one sentence."""
        return f"The examples of {self._origin}, as it returns them."


def wrap_dataset(
    dataset: Dataset[Any],
    *,
    batch_size: int = 32,
    val_fraction: float = 0.15,
    test_fraction: float = 0.15,
    seed: int = 0,
    task: str = "auto",
) -> Data:
    """Return a Dataset as `Data`; see `DatasetData`.

    Example:
        >>> from torch.utils.data import TensorDataset
        >>> data = wrap_dataset(TensorDataset(torch.randn(100, 3), torch.arange(100) % 2))
        >>> data.task, data.form, data.num_inputs, data.num_outputs, len(data.train)
        ('classification', 'vector', 3, 2, 70)
    """
    return DatasetData(dataset, batch_size, val_fraction, test_fraction, seed, task)
