"""What every data set offers to training, and the checks that its numbers pass on the way in."""

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
Examples = Any  # a map-style Dataset of pairs (x, y), with a length: torch's own type promises none

MAX_SEED = 2**32 - 1  # the largest seed that numpy's and scikit-learn's RandomState take
USUAL_BATCH_SIZE = 32  # the largest default of a data set
DIGEST_LENGTH = 16  # hexadecimal digits: 64 bits, a chance collision needs some 2**32 data sets; MLflow allows 36


class Data(ABC):
    """Three fixed splits of one data set, in the form that the network reads.

    Inputs are float32: ``(N, features)`` as vectors, ``(N, steps, features)`` as sequences and
    ``(N, channels, height, width)`` as images. Targets are int64 ``(N,)`` for classification and
    float32 ``(N, num_outputs)`` for regression. With a target for every step (`per_step`) they are ``(N, steps)``
    and ``(N, steps, num_outputs)``, and a network's outputs ``(batch, steps, num_outputs)``.

    A split is a map-style Dataset of pairs (x, y). Two tensors become one; what would not fit into memory is a
    `LazySplit`, which makes an example when it is asked for.

    Attributes:
        name: The name of the data set, as in ``conf/data/<name>.yaml``.
        task: ``classification`` or ``regression``.
        batch_size: Examples in one global batch; training divides it among its processes.
        train: The examples that are trained on.
        val: The examples that choices are made with.
        test: The examples that are looked at once, at the end.
        form: ``vector``, ``sequence`` or ``image``: what the shape of one input means.
        num_inputs: Features of a vector or of one time step, channels of an image.
        num_outputs: Classes, or targets of a regression.
        num_steps: Length of a sequence; None for the other forms.
        forms: The forms that this data set can take, the natural one first.
        per_step: Whether there is a target for every time step.
        causal: Whether a network must not look at the steps after the one that it predicts from.

    Args:
        train: Inputs and targets of the training set, as two tensors or as a Dataset.
        val: Inputs and targets of the validation set.
        test: Inputs and targets of the test set.
        batch_size: Global batch size, from 1 to the size of the training set.
        form: What the shape of one input means.
        num_outputs: Classes, or targets of a regression.

    Raises:
        RequestError: `batch_size` is no count, or larger than the training set.
    """

    name: ClassVar[str]
    forms: ClassVar[tuple[str, ...]]
    per_step: bool = False
    causal: bool = False
    task: Task  # of the class, or of one data set where its file decides

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
        """One sentence that says where the numbers come from."""

    def describe(self) -> dict[str, Any]:
        """Return what a record or a tracking server keeps about this data set, as plain Python values.

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
    """Return a split as a Dataset: itself, or one of the two tensors."""
    return TensorDataset(*split) if isinstance(split, tuple) else split


def digest(*splits: Dataset[Any]) -> str:
    """Return the first hexadecimal digits of the SHA-256 of all numbers in the splits, in order.

    The length and type of each tensor count and its shape does not: the same images read as vectors or
    as sequences are the same data, and keep one digest. Of a `LazySplit` the numbers behind it count, of another
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
    """Return the form to build: `form` itself, or the first of `forms`, the natural one, for ``auto``.

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
    """Return `value` if a training set of `num_train` examples fills one such batch; raise RequestError otherwise."""
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
