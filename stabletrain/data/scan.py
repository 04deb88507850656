"""Reading a user-defined Dataset once: the form of its examples, and what is wrong with them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sized
from dataclasses import dataclass
from numbers import Integral
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from stabletrain.data.base import Task
from stabletrain.data.lazy import MAX_SCANNED
from stabletrain.errors import RequestError
from stabletrain.torch_tools.isolation import preserve_rng

FORMS = {1: "vector", 2: "sequence", 3: "image"}  # by the number of axes of one input
WIDER = {  # dtypes that numpy or torch's comparisons lack, by a dtype that represents all their values
    torch.bfloat16: torch.float32,
    torch.uint16: torch.int64,
    torch.uint32: torch.int64,
    torch.uint64: torch.int64,
}


@dataclass(frozen=True)
class Scan:
    """What the examples of a Dataset have in common.

    Attributes:
        task: ``classification`` or ``regression``.
        form: ``vector``, ``sequence`` or ``image``.
        per_step: Whether there is a target for every time step.
        num_outputs: Classes, or targets of a regression.
        labels: Class of every example, int64 (N,); None for a regression, for a target per step, or if not all
            examples were read.
        fingerprint: SHA-256 of all numbers that were read.
    """

    task: Task
    form: str
    per_step: bool
    num_outputs: int
    labels: np.ndarray | None
    fingerprint: bytes


def scan(dataset: Dataset[Any], task: str) -> Scan:
    """Read all examples of a Dataset, or `MAX_SCANNED` of them, evenly spaced.

    The state of the global random number generators is restored: the Dataset may augment at random.

    Args:
        dataset: Has a length and returns pairs (x, y).
        task: ``classification``, ``regression``, or ``auto`` to decide by the dtype of the first target.

    Raises:
        RequestError: The Dataset has no length, no examples or no pairs; examples differ in shape; inputs or targets
            are not finite; labels are not 0 to K − 1; or there is a single class.
    """
    count = _count(dataset)
    rows = np.unique(np.linspace(0, count - 1, min(count, MAX_SCANNED)).astype(np.int64))
    with preserve_rng():
        x, targets, fingerprint = _read(dataset, rows)
    chosen = _resolve_task(task, targets[0])
    form, per_step = _resolve_form(x, targets[0], chosen)
    if chosen == "regression":
        num_outputs = targets.shape[-1] if targets.dim() > 1 else 1
        return Scan(chosen, form, per_step, num_outputs, None, fingerprint)
    labels = _to_labels(targets, rows)
    known = None if per_step else _all_labels(dataset, labels, rows, count)
    num_classes = _count_classes(dataset, labels if known is None else known, is_strict=known is not None)
    return Scan(chosen, form, per_step, num_classes, known, fingerprint)


def to_tensor(value: Any) -> Tensor:
    """Return a number, an array or a tensor as a dense tensor; raise TypeError for anything else.

    PIL images and complex numbers are refused too, since networks take neither.
    """
    if type(value).__module__.startswith("PIL."):  # height, width, channels, where networks take channels first
        raise TypeError("a PIL image")
    tensor = value if isinstance(value, Tensor) else torch.as_tensor(np.asarray(value))
    if tensor.is_complex():
        raise TypeError("complex numbers")
    tensor = tensor.detach().cpu() if tensor.layout == torch.strided else tensor.detach().cpu().to_dense()
    return tensor.to(WIDER.get(tensor.dtype, tensor.dtype))


def refuse(what: str, found: Any, allowed: str = "pairs (x, y) of equal shapes") -> RequestError:
    """Return the error for a Dataset that cannot be used."""
    return RequestError(f"The Dataset {what}.", key="_target_", found=found, allowed=allowed)


def _count(dataset: Dataset[Any]) -> int:
    name = type(dataset).__name__
    try:
        count = len(cast(Sized, dataset)) if hasattr(dataset, "__getitem__") else None
    except TypeError:  # what `IterableDataset.__len__` should raise according to torch
        count = None
    if count is None:
        raise refuse("cannot be split", f"{name} without a length", "a map-style Dataset, or a LightningDataModule")
    if count == 0:
        raise refuse("is empty", "0 examples", "1 example or more in each split")
    return count


def _read(dataset: Dataset[Any], rows: np.ndarray) -> tuple[Tensor, Tensor, bytes]:
    """Return the first input, all targets, stacked, and the hash of all numbers."""
    hasher, failing = hashlib.sha256(), []
    first: Tensor | None = None
    targets: list[Tensor] = []
    for row, x, y in _pairs(dataset, rows):
        first = x if first is None else first
        targets.append(y)
        _require_same_shape("inputs", row, x, first)
        _require_same_shape("targets", row, y, targets[0])
        if not (torch.isfinite(x.to(torch.float32)).all() and torch.isfinite(y).all()):
            failing.append(row)
        hasher.update(x.contiguous().numpy().tobytes() + y.contiguous().numpy().tobytes())
    assert first is not None
    _require_finite(failing, len(rows))
    return first, torch.stack(targets), hasher.digest()


def _pairs(dataset: Any, rows: np.ndarray) -> Iterator[tuple[int, Tensor, Tensor]]:
    for row in rows.tolist():
        try:
            pair = dataset[row]
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise refuse(f"fails at index {row}: {type(error).__name__}", reason) from error
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            size = f" of {len(pair)}" if isinstance(pair, list | tuple) else ""
            raise refuse("does not return pairs (x, y)", f"{type(pair).__name__}{size} at index {row}")
        try:
            yield row, to_tensor(pair[0]), to_tensor(pair[1])
        except (TypeError, ValueError, RuntimeError) as error:
            kinds = " and ".join(type(item).__name__ for item in pair)
            allowed = "numbers, arrays or tensors (for images: transform=torchvision.transforms.ToTensor())"
            raise refuse("returns values that are not numeric", f"{kinds} at index {row}", allowed) from error


def _require_same_shape(what: str, row: int, one: Tensor, first: Tensor) -> None:
    if one.shape != first.shape:
        found = f"{tuple(one.shape)} at index {row}, {tuple(first.shape)} at index 0"
        raise refuse(f"returns {what} of different shapes", found)


def _require_finite(failing: list[int], num_read: int) -> None:
    if failing:
        found = f"NaN or Inf in {len(failing)} of {num_read} examples, the first at index {failing[0]}"
        raise refuse("returns numbers that are not finite", found, "finite numbers, within float32")


def _resolve_task(task: str, target: Tensor) -> Task:
    is_classes = not target.is_floating_point() if task == "auto" else task == "classification"
    return "classification" if is_classes else "regression"


def _resolve_form(x: Tensor, y: Tensor, task: Task) -> tuple[str, bool]:
    """Return the form, and whether there is a target per step."""
    if x.dim() not in FORMS or x.numel() == 0:
        allowed = "(features,), (steps, features) or (channels, height, width), none of them 0"
        raise refuse("returns inputs that are not vectors, sequences or images", f"shape {tuple(x.shape)}", allowed)
    form, num_axes = FORMS[x.dim()], y.dim() - (task == "regression")
    if num_axes <= 0:
        return form, False
    if form == "sequence" and num_axes == 1 and len(y) == len(x):
        return form, True
    found = f"targets of shape {tuple(y.shape)} for inputs of shape {tuple(x.shape)}"
    allowed = "a label, or one for each step" if task == "classification" else "numbers, or as many for each step"
    raise refuse(f"returns targets that do not fit a {task}", found, allowed)


def _to_labels(targets: Tensor, rows: np.ndarray) -> np.ndarray:
    """Return non-negative integer targets as int64; raise RequestError for others."""
    wrong = (targets < 0) | (targets != targets.trunc() if targets.is_floating_point() else targets < 0)
    if bool(wrong.any()):
        place = wrong.nonzero()[0]
        found = f"{targets[tuple(place)].item()} at index {rows[int(place[0])]}"
        raise refuse("returns labels that are not classes", found, "0 to K − 1 for K classes")
    return targets.to(torch.int64).numpy()


def _all_labels(dataset: Any, labels: np.ndarray, rows: np.ndarray, count: int) -> np.ndarray | None:
    """Return the label of every example: those read, or the `targets` of the Dataset if they agree; else None."""
    if len(rows) == count:
        return labels
    try:
        listed = to_tensor(getattr(dataset, "targets", None)).numpy()
    except (TypeError, ValueError, RuntimeError):
        return None
    agrees = listed.shape == (count,) and np.array_equal(listed[rows], labels)
    return listed.astype(np.int64) if agrees else None


def _count_classes(dataset: Any, labels: np.ndarray, *, is_strict: bool) -> int:
    """Return K: from the attributes `num_classes` or `classes` of the Dataset, or the highest label plus one."""
    stated = getattr(dataset, "num_classes", None)
    if stated is None and isinstance(getattr(dataset, "classes", None), list | tuple):
        stated = len(dataset.classes)
    stated = int(stated) if isinstance(stated, Integral) else None
    present, highest = np.unique(labels), int(labels.max())
    if stated is not None and highest >= stated:
        raise refuse(
            "returns labels beyond its own number of classes",
            f"label {highest} of {stated} classes",
            f"0 to {stated - 1}",
        )
    if len(present) < 2:
        raise refuse("has a single class: there is nothing to learn", f"only class {highest}", "two or more")
    if stated is not None:
        return stated
    if len(present) <= highest and (is_strict or highest >= labels.size):  # examples not read may fill small gaps only
        missing = int(np.setdiff1d(np.arange(len(present) + 1), present)[0])
        found = f"{len(present)} labels from {present[0]} to {highest}, without {missing}"
        raise refuse("returns labels with gaps", found, f"0 to {len(present) - 1}; or a Dataset with `num_classes`")
    return highest + 1
