"""What training cannot make sense of, found in the data before it begins."""

from __future__ import annotations

import torch
from torch import Tensor

from stabletrain.data.base import Data
from stabletrain.errors import RequestError


def check_data(data: Data) -> None:
    """Check all splits of a data set.

    Raises:
        RequestError: A split is empty, inputs or targets are not finite, sequences have no steps, labels lie outside
            the classes, or the training set holds a single class.
    """
    for split in ("train", "val", "test"):
        inputs, targets = getattr(data, split).tensors
        _require_examples(split, inputs)
        _require_finite(split, "input", inputs)
        if data.task == "classification":
            _require_labels(split, targets, data.num_outputs)
        else:
            _require_finite(split, "target", targets)
    labels = data.train.tensors[1]
    if data.task == "classification" and bool((labels == labels.flatten()[0]).all()):
        raise RequestError(
            "The training set holds a single class: there is nothing to learn.",
            key="data",
            found=f"class {int(labels.flatten()[0])} in all {len(labels)} examples",
            allowed="two classes or more",
        )


def _require_examples(split: str, inputs: Tensor) -> None:
    if inputs.numel() == 0:
        raise RequestError(
            f"The {split} set is empty.",
            key="data",
            found=f"inputs of shape {tuple(inputs.shape)}",
            allowed="at least one example, of at least one step and feature",
        )


def _require_finite(split: str, what: str, values: Tensor) -> None:
    bad = ~torch.isfinite(values.flatten(1) if values.dim() > 1 else values.unsqueeze(1)).all(dim=1)
    if bool(bad.any()):
        raise RequestError(
            f"The {split} set holds {what}s that are not finite.",
            key="data",
            found=f"Inf or NaN in {int(bad.sum())} of {len(bad)} examples, number {int(bad.nonzero()[0])} the first",
            allowed="finite numbers",
        )


def _require_labels(split: str, labels: Tensor, num_classes: int) -> None:
    bad = ((labels < 0) | (labels >= num_classes)).flatten()
    if bool(bad.any()):
        first = labels.flatten()[bad][0]
        raise RequestError(
            f"The {split} set holds labels that are no class.",
            key="data",
            found=f"label {int(first)}, and {int(bad.sum()) - 1} more",
            allowed=f"0 to {num_classes - 1}",
        )
