"""Any torch Dataset of one's own, split and checked like the data sets here."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any, ClassVar, cast, final

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from stabletrain.data.base import MAX_SEED, Data, Split, require_count
from stabletrain.data.splits import split_rows, split_sizes
from stabletrain.errors import RequestError, require_choice

FORMS = {1: "vector", 2: "sequence", 3: "image"}  # by the number of axes of one input
MIN_PER_SPLIT = 2


@final
class DatasetData(Data):
    """A map-style Dataset of pairs (x, y), read into memory once.

    An input of one axis is a vector, of two a sequence (time, features), of three an image (channels, height,
    width). Integer targets are classes 0 to K − 1, one for each example or, of sequences, one for each step; all
    other targets are numbers to be predicted.

    Args:
        dataset: With `__len__` and `__getitem__`.
        batch_size: Global batch size, from 1 to the size of the training set.
        val_fraction: Share of the examples that validates, above 0.
        test_fraction: Share of the examples that tests, above 0; both shares together below 1.
        seed: Which split, from 0 to 2³² - 1.
        task: ``classification``, ``regression``, or ``auto`` for what the targets' type says.

    Raises:
        RequestError: The Dataset does not give such pairs, or an argument is out of its range.
    """

    name: ClassVar[str] = "custom"
    forms: ClassVar[tuple[str, ...]] = ()

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
        inputs, targets = read_pairs(dataset)
        is_classes = not targets.is_floating_point() if task == "auto" else task == "classification"
        self.task = "classification" if is_classes else "regression"
        form = FORMS[inputs.dim() - 1]
        self.per_step = form == "sequence" and targets.dim() == (2 if is_classes else 3)
        targets = targets.to(torch.int64) if is_classes else targets.to(torch.float32)
        if not is_classes and targets.dim() == 1:
            targets = targets.unsqueeze(1)
        num_val, num_test = split_sizes(len(inputs), val_fraction, test_fraction, MIN_PER_SPLIT, "examples")
        labels = targets.numpy() if is_classes and targets.dim() == 1 else None
        rows = split_rows(len(inputs), num_val, num_test, seed, labels)
        splits: list[Split] = [(inputs[part], targets[part]) for part in map(torch.from_numpy, rows)]
        num_outputs = int(targets.max()) + 1 if is_classes else targets.shape[-1]
        super().__init__(*splits, batch_size=batch_size, form=form, num_outputs=max(1, num_outputs))

    @property
    def source(self) -> str:
        """One sentence that says where the numbers come from."""
        return f"The examples of {self._origin}, in the order of the Dataset before they were split."


def wrap_dataset(
    dataset: Dataset[Any],
    *,
    batch_size: int = 32,
    val_fraction: float = 0.15,
    test_fraction: float = 0.15,
    seed: int = 0,
    task: str = "auto",
) -> Data:
    """Return a Dataset as `Data`; see `DatasetData`."""
    return DatasetData(dataset, batch_size, val_fraction, test_fraction, seed, task)


def read_pairs(dataset: Dataset[Any]) -> tuple[Tensor, Tensor]:
    """Return all inputs, float32 (N, …) of two to four axes, and all targets.

    Raises:
        RequestError: No length, no examples, no pairs, or examples of different shapes.
    """
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise _refuse("has no length", type(dataset).__name__)
    count = len(cast(Sized, dataset))
    if count == 0:
        raise _refuse("is empty", "0 examples")
    pairs = [dataset[index] for index in range(count)]
    if not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
        raise _refuse("does not give pairs (x, y)", type(pairs[0]).__name__)
    try:
        inputs = torch.stack([_tensor(x) for x, _ in pairs])
        targets = torch.stack([_tensor(y) for _, y in pairs])
    except (RuntimeError, ValueError, TypeError) as error:
        raise _refuse("gives examples that do not stack", str(error).splitlines()[0]) from error
    if not 2 <= inputs.dim() <= 4:
        raise _refuse("gives inputs that are no vectors, sequences or images", f"shape {tuple(inputs.shape[1:])}")
    return inputs.to(torch.float32), targets


def _tensor(value: Any) -> Tensor:
    return value if isinstance(value, Tensor) else torch.as_tensor(np.asarray(value))


def _refuse(what: str, found: str) -> RequestError:
    return RequestError(
        f"The Dataset {what}.",
        key="_target_",
        found=found,
        allowed="a Dataset of pairs (x, y) of equal shapes, or a LightningDataModule",
    )
