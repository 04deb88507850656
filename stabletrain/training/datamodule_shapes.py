"""What a LightningDataModule of one's own brings: its shapes, read from its first batch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities.model_helpers import is_overridden
from torch import Tensor

from stabletrain.errors import RequestError
from stabletrain.vocabulary import metric_names as names

FORMS = {2: "vector", 3: "sequence", 4: "image"}  # by the number of axes of a batch
_MAX_BATCHES = 1000  # read to find the classes where the data module does not name their number


class LoadedData:
    """A LightningDataModule, seen as the families see data.

    Attributes:
        datamodule: The data module itself.
        task: `classification` where targets are integers, else `regression`.
        form: `vector`, `sequence` or `image`, by the axes of the inputs.
        num_inputs: Features of a vector or a time step, channels of an image.
        num_outputs: `num_classes` or `num_outputs` of the data module, else the largest label plus one, else the
            last axis of the targets.
        num_steps: Length of a sequence; None for the other forms.
        per_step: Whether there is a target for every time step.
        causal: False: a data module cannot say.
        batch_size: Of the first batch.

    Args:
        datamodule: Gives batches `(x, y)` of tensors.

    Raises:
        RequestError: It gives no batch, or something else than a pair of tensors.
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


class LogLoss(Callback):
    """Records `train/loss` for a LightningModule that calls it something else, or nothing."""

    def __init__(self) -> None:
        self._is_ours = False

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log what `training_step` returned, unless the module has logged it itself."""
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if isinstance(loss, Tensor) and loss.numel() == 1 and names.TRAIN_LOSS not in trainer.callback_metrics:
            self._is_ours = True
        if isinstance(loss, Tensor) and loss.numel() == 1 and self._is_ours:
            several = trainer.world_size > 1  # each of which saw a part of the batch
            pl_module.log(names.TRAIN_LOSS, loss.detach(), on_step=True, on_epoch=False, sync_dist=several)


def has_hook(name: str, owner: pl.LightningModule | pl.LightningDataModule) -> bool:
    """Whether a module or data module brings a method that Lightning leaves open, `test_step` for one."""
    return is_overridden(name, owner)


def _first_pair(loader: Iterable[Any]) -> tuple[Tensor, Tensor]:
    batch = next(iter(loader), None)
    if not (isinstance(batch, list | tuple) and len(batch) == 2 and all(isinstance(t, Tensor) for t in batch)):
        raise RequestError(
            "The data module gives no batches of inputs and targets.",
            key="data._target_",
            found="no batch" if batch is None else type(batch).__name__,
            allowed="batches (x, y) of two tensors",
        )
    x, y = batch
    if not torch.is_floating_point(x):
        raise RequestError(
            "The data module gives inputs that are not numbers with a fraction.",
            key="data._target_",
            found=str(x.dtype),
            allowed="torch.float32",
        )
    return x, y
