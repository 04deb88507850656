"""Split a batch, to find the samples that fail on their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor


def leaves(batch: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield the floating point and complex tensors in a batch with their paths: `[0]`, `['image']`, `[1][0]`."""
    if isinstance(batch, Tensor):
        if batch.is_floating_point() or batch.is_complex():
            yield name, batch
    elif isinstance(batch, Mapping):
        for key, part in batch.items():
            yield from leaves(part, f"{name}[{key!r}]")
    elif isinstance(batch, list | tuple):
        for index, part in enumerate(batch):
            yield from leaves(part, f"{name}[{index}]")


def length_of(batch: Any) -> int:
    """Return the number of samples: the length of the first tensor that is not a scalar, or 0 without one."""
    if isinstance(batch, Tensor):
        return len(batch) if batch.dim() else 0
    parts = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, list | tuple) else ()
    return next((length for part in parts if (length := length_of(part))), 0)


def select(batch: Any, samples: Sequence[int], length: int) -> Any:
    """Return a batch of some of the samples; parts of another length are kept whole."""
    if isinstance(batch, Tensor):
        return batch[list(samples)] if batch.dim() and len(batch) == length else batch
    if isinstance(batch, Mapping):
        return {key: select(part, samples, length) for key, part in batch.items()}
    if isinstance(batch, list | tuple):
        if len(batch) == length and not any(isinstance(part, Tensor | Mapping | list | tuple) for part in batch):
            return [batch[i] for i in samples]  # strings or numbers, one per sample
        parts = [select(part, samples, length) for part in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
    return batch


def find_samples(batch: Any, length: int, fails: Callable[[Any], bool], max_num: int) -> tuple[int, ...]:
    """Find the samples that fail on their own, by bisection: 2 log2(length) calls of `fails` for a single one.

    Args:
        batch: A batch that fails as a whole.
        length: Number of samples in the batch.
        fails: Called with a part of the batch; returns whether it fails. If it raises (batch norm requires two
            samples), the part that was being halved is returned as a whole.
        max_num: Maximum number of samples to return.

    Returns:
        Indices of samples; empty if neither half of the batch fails.
    """
    found: list[int] = []
    waiting = [range(length)]
    while waiting and len(found) < max_num:
        part = waiting.pop()
        if len(part) <= 1:
            found += part
            continue
        halves = [part[: len(part) // 2], part[len(part) // 2 :]]
        try:
            wrong = [half for half in halves if fails(select(batch, half, length))]
        except Exception:  # user code may require anything of a batch
            wrong = []
        if not wrong and len(part) == length:
            return ()
        waiting += reversed(wrong)
        found += [] if wrong else part
    return tuple(found[:max_num])
