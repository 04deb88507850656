"""The shapes of a user's LightningDataModule, read from its first batch."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from stabletrain.errors import RequestError

FORMS = {2: "vector", 3: "sequence", 4: "image"}  # by the number of dimensions of a batch
_MAX_BATCHES = 1000  # read to count the classes if the data module does not say how many there are


class LoadedData:
    """A LightningDataModule with the attributes of `stabletrain.data.Data` that model families read.

    Attributes:
        datamodule: The data module itself.
        task: `classification` where targets are integers, else `regression`.
        form: `vector`, `sequence` or `image`, by the number of dimensions of the inputs.
        num_inputs: Features of a vector or a time step, channels of an image.
        num_outputs: `num_classes` or `num_outputs` of the data module; else the largest label plus one, or for a
            regression the last dimension of the targets.
        num_steps: Length of a sequence; None for the other forms.
        per_step: Whether there is a target for every time step.
        causal: False, since a data module does not say.
        batch_size: Size of the first batch.

    Args:
        datamodule: Yields batches `(x, y)` of tensors.

    Raises:
        RequestError: It yields no batch, or batches that are not pairs of tensors with floating-point inputs.
    """

    causal = False

    def __init__(self, datamodule: pl.LightningDataModule) -> None:
        self.datamodule = datamodule
        self.name = type(datamodule).__name__
        datamodule.prepare_data()
        datamodule.setup("fit")
        x, y = _first_pair(datamodule.train_dataloader())
        self._inputs = x
        self.batch_size = len(x)
        self.task = "regression" if y.is_floating_point() else "classification"
        self.form = FORMS.get(x.dim(), "vector")
        self.num_inputs = x.shape[1] if self.form == "image" else x.shape[-1]
        self.num_steps = x.shape[1] if self.form == "sequence" else None
        self.per_step = y.dim() == (2 if self.task == "classification" else 3)
        self.num_outputs = self._count_outputs(y)

    def examples(self, num_examples: int) -> Tensor:
        """Return inputs of the first training batch."""
        return self._inputs[:num_examples]

    def describe(self) -> dict[str, Any]:
        """Return what the record keeps about the data."""
        return {
            "name": self.name,
            "task": self.task,
            "form": self.form,
            "num_inputs": self.num_inputs,
            "num_outputs": self.num_outputs,
            "num_steps": self.num_steps,
            "per_step": self.per_step,
            "source": f"The data module {type(self.datamodule).__module__}.{type(self.datamodule).__qualname__}.",
        }

    def _count_outputs(self, targets: Tensor) -> int:
        for name in ("num_classes", "num_outputs"):
            value = getattr(self.datamodule, name, None)
            if isinstance(value, int):
                return value
        if self.task == "regression":
            return targets.shape[-1] if targets.dim() > 1 else 1
        batches = islice(iter(self.datamodule.train_dataloader()), _MAX_BATCHES)
        return 1 + max(int(batch[1].max()) for batch in batches)


def _first_pair(loader: Iterable[Any]) -> tuple[Tensor, Tensor]:
    batch = next(iter(loader), None)
    if not (isinstance(batch, list | tuple) and len(batch) == 2 and all(isinstance(t, Tensor) for t in batch)):
        raise RequestError(
            "The data module does not yield batches of inputs and targets.",
            key="data._target_",
            found="no batch" if batch is None else type(batch).__name__,
            allowed="batches (x, y) of two tensors",
        )
    x, y = batch
    if not torch.is_floating_point(x):
        raise RequestError(
            "The inputs of the data module are not floating point.",
            key="data._target_",
            found=str(x.dtype),
            allowed="torch.float32",
        )
    return x, y
