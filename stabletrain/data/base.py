"""The interface of a data set, and checks of the arguments that data sets share."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from stabletrain.data.lazy import numbers_of
from stabletrain.errors import RequestError, require_choice, require_range

Task = Literal["classification", "regression"]
Split = tuple[Tensor, Tensor]
Examples = Any  # a map-style Dataset of pairs (x, y); `torch.utils.data.Dataset` itself declares no `__len__`

MAX_SEED = 2**32 - 1  # the largest seed that the RandomState of numpy and scikit-learn accepts
USUAL_BATCH_SIZE = 32  # the largest default batch size of a data set
DIGEST_LENGTH = 16  # hexadecimal digits: 64 bits, a collision takes about 2**32 data sets; MLflow allows 36 digits


class Data(ABC):
    """Three fixed splits of one data set, in the form that the network takes.

    Inputs are float32: ``(N, features)`` as vectors, ``(N, steps, features)`` as sequences and
    ``(N, channels, height, width)`` as images. Targets are int64 ``(N,)`` for classification and
    float32 ``(N, num_outputs)`` for regression. With a target for every step (`per_step`) they are ``(N, steps)``
    and ``(N, steps, num_outputs)``, and the network's outputs are ``(batch, steps, num_outputs)``.

    A split is a map-style Dataset of pairs (x, y). A pair of tensors becomes a `TensorDataset`; a split that would
    not fit into memory is a `LazySplit`, which builds each example on access.

    Attributes:
        name: The name of the data set, as in ``conf/data/<name>.yaml``.
        task: ``classification`` or ``regression``.
        batch_size: Examples in one global batch, which training divides among its processes.
        train: The training set.
        val: The validation set, used to choose between models.
        test: The test set, used once, at the end.
        form: ``vector``, ``sequence`` or ``image``: what the shape of one input means.
        num_inputs: Features of a vector or of one time step, channels of an image.
        num_outputs: Classes, or targets of a regression.
        num_steps: Length of a sequence; None for the other forms.
        forms: The forms that this data set can take, the default first.
        per_step: Whether there is a target for every time step.
        causal: Whether the prediction at a step must not depend on later steps.

    Args:
        train: Inputs and targets of the training set, as two tensors or as a Dataset.
        val: Inputs and targets of the validation set.
        test: Inputs and targets of the test set.
        batch_size: Global batch size, from 1 to the size of the training set.
        form: What the shape of one input means.
        num_outputs: Classes, or targets of a regression.

    Raises:
        RequestError: `batch_size` is not a positive integer, or larger than the training set.
    """

    name: ClassVar[str]
    forms: ClassVar[tuple[str, ...]]
    per_step: bool = False
    causal: bool = False
    task: Task  # a class attribute, or set per instance where the data decide

    def __init__(
        self,
        train: Split | Dataset[Any],
        val: Split | Dataset[Any],
        test: Split | Dataset[Any],
        *,
        batch_size: int,
        form: str,
        num_outputs: int,
    ) -> None:
        self.train: Examples = as_dataset(train)
        self.val: Examples = as_dataset(val)
        self.test: Examples = as_dataset(test)
        self.batch_size = require_batch_size(batch_size, len(self.train))
        x, y = self.train[0]
        assert x.dtype == torch.float32
        assert y.dtype == (torch.int64 if self.task == "classification" else torch.float32)
        assert y.dim() == self.per_step + (self.task == "regression")
        self.form = form
        self.num_inputs = x.shape[0] if form == "image" else x.shape[-1]
        self.num_outputs = num_outputs
        self.num_steps = x.shape[0] if form == "sequence" else None

    @property
    @abstractmethod
    def source(self) -> str:
        """Where the data come from, in one sentence."""

    def describe(self) -> dict[str, Any]:
        """Return what is recorded about this data set, as plain Python values.

        Returns:
            `name`, `task`, `form`, `num_train`, `num_val`, `num_test`, `num_inputs`, `num_outputs`, `num_steps`,
            `per_step`, `digest` (see `digest`) and `source`.
        """
        return {
            "name": self.name,
            "task": self.task,
            "form": self.form,
            "num_train": len(self.train),
            "num_val": len(self.val),
            "num_test": len(self.test),
            "num_inputs": self.num_inputs,
            "num_outputs": self.num_outputs,
            "num_steps": self.num_steps,
            "per_step": self.per_step,
            "digest": digest(self.train, self.val, self.test),
            "source": self.source,
        }


def as_dataset(split: Split | Dataset[Any]) -> Dataset[Any]:
    """Return a split as a Dataset, wrapping a pair of tensors in a `TensorDataset`."""
    return TensorDataset(*split) if isinstance(split, tuple) else split


def digest(*splits: Dataset[Any]) -> str:
    """Return the first hexadecimal digits of the SHA-256 of all numbers in the splits, in order.

    The digest depends on the length and dtype of each tensor but not on its shape, so that the same images read as
    vectors or as sequences have the same digest. For a `LazySplit` the underlying tensors are hashed, for any other
    Dataset its first `MAX_SCANNED` examples.

    Args:
        splits: Data sets of tensors, of any shape.

    Returns:
        `DIGEST_LENGTH` hexadecimal digits.
    """
    hasher = hashlib.sha256()
    for split in splits:
        for tensor in numbers_of(split):
            hasher.update(f"{len(tensor)} {tensor.dtype};".encode())
            hasher.update(tensor.contiguous().numpy().data)
    return hasher.hexdigest()[:DIGEST_LENGTH]


def resolve_form(form: str, forms: Sequence[str]) -> str:
    """Return the form to build: `form` itself, or the first of `forms` for ``auto``.

    Raises:
        RequestError: The data set does not have this form.
    """
    return forms[0] if require_choice("form", form, ["auto", *forms]) == "auto" else form


def require_count(key: str, value: int, minimum: int = 1, maximum: int | None = None) -> int:
    """Return `value` if it is a whole number from `minimum` to `maximum`; raise RequestError otherwise."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise RequestError(f"{key} is not a whole number.", key=key, found=value, allowed=f"an integer from {minimum}")
    return int(require_range(key, int(value), minimum, maximum))


def require_fraction(key: str, value: float) -> float:
    """Return `value` if it lies strictly between 0 and 1; raise RequestError otherwise."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise RequestError(f"{key} is not a number.", key=key, found=value, allowed="a number above 0 below 1")
    return float(require_range(key, float(value), 0.0, 1.0, open_minimum=True, open_maximum=True))


def require_batch_size(value: int, num_train: int) -> int:
    """Return `value` if it is between 1 and the size of the training set; raise RequestError otherwise."""
    require_count("batch_size", value)
    if value > num_train:
        raise RequestError(
            f"batch_size is larger than the training set of {num_train} examples.",
            key="batch_size",
            found=value,
            allowed=f"an integer from 1 up to {num_train}",
            closest=str(num_train) if num_train < USUAL_BATCH_SIZE else None,  # else the default fits
        )
    return int(value)
