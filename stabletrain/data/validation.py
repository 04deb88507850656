"""Checks of the data before training begins."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stabletrain.data.base import Data
from stabletrain.data.lazy import blocks_of
from stabletrain.errors import RequestError
from stabletrain.torch_tools.isolation import preserve_rng

SPLITS = {"train": "training", "val": "validation", "test": "test"}


def check_data(data: Data) -> None:
    """Check all splits of a data set.

    Tensors are checked completely. Of a split whose examples are built one by one, at most the first
    `stabletrain.data.lazy.MAX_SCANNED` are.

    Raises:
        RequestError: A split is empty; inputs have no elements (sequences without steps); inputs or the targets of a
            regression are not finite; labels are outside the classes; or the training set has a single class.
    """
    with preserve_rng():  # examples may be augmented at random
        for split in SPLITS:
            _check_split(data, split)


def _check_split(data: Data, split: str) -> None:
    _require_examples(data, split)
    inputs_failing, targets_failing = _Failing(), _Failing()
    lowest, highest = [], []
    for inputs, targets in blocks_of(getattr(data, split)):
        _require_numbers(split, inputs, data.form)
        inputs_failing.add(~torch.isfinite(inputs))
        if data.task == "classification":
            targets_failing.add((targets < 0) | (targets >= data.num_outputs), targets)
            lowest.append(int(targets.min()))
            highest.append(int(targets.max()))
        else:
            targets_failing.add(~torch.isfinite(targets))
    _require_finite(split, "inputs", inputs_failing)
    if data.task == "regression":
        _require_finite(split, "targets", targets_failing)
        return
    _require_classes(split, targets_failing, data.num_outputs)
    if split == "train" and targets_failing.num_read == len(data.train):  # examples not read may be of other classes
        _require_two_classes(min(lowest), max(highest), len(data.train))


@dataclass
class _Failing:
    """Examples that fail a check: how many of how many, the first of them, and its value."""

    num_read: int = 0
    count: int = 0
    first: int = -1
    value: float = 0.0

    def add(self, failing: Tensor, values: Tensor | None = None) -> None:
        """Add a block of examples; `failing` is True for each element that fails."""
        examples = failing.flatten(1).any(dim=1) if failing.dim() > 1 else failing
        if self.count == 0 and bool(examples.any()):
            row = int(examples.nonzero()[0])
            self.first = self.num_read + row
            self.value = 0.0 if values is None else float(values[row][failing[row]].flatten()[0])
        self.num_read += len(examples)
        self.count += int(examples.sum())

    def __str__(self) -> str:
        return f"in {self.count} of {self.num_read} examples, the first at index {self.first}"


def _require_examples(data: Data, split: str) -> None:
    if len(getattr(data, split)) == 0:
        raise RequestError(f"The {SPLITS[split]} set is empty.", key="data", found="0 examples", allowed="1 or more")


def _require_numbers(split: str, inputs: Tensor, form: str) -> None:
    if inputs[0].numel() == 0:
        has_no_steps = form == "sequence" and inputs.shape[1] == 0
        raise RequestError(
            f"The {SPLITS[split]} set has {'sequences without steps' if has_no_steps else 'inputs without elements'}.",
            key="data",
            found=f"inputs of shape {tuple(inputs.shape[1:])}",
            allowed="sequences of one step or more" if has_no_steps else "one feature or more",
        )


def _require_finite(split: str, what: str, failing: _Failing) -> None:
    if failing.count:
        raise RequestError(
            f"The {SPLITS[split]} set has {what} that are not finite.",
            key="data",
            found=f"NaN or Inf {failing}",
            allowed="finite numbers: fill or leave out such examples",
        )


def _require_classes(split: str, failing: _Failing, num_classes: int) -> None:
    if failing.count:
        raise RequestError(
            f"The {SPLITS[split]} set has labels outside the classes.",
            key="data",
            found=f"labels {failing} (label {failing.value:.0f})",
            allowed=f"0 to {num_classes - 1}",
        )


def _require_two_classes(lowest: int, highest: int, num_examples: int) -> None:
    if lowest == highest:
        raise RequestError(
            "The training set has a single class: there is nothing to learn.",
            key="data",
            found=f"class {lowest} in all {num_examples} examples",
            allowed="two classes or more",
        )
