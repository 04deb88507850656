"""Batches taken apart: which samples go wrong by themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor


def leaves(batch: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of fractions in a batch with their places: `[0]`, `['image']`, `[1][0]`."""
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
    """Return the number of samples: the length of the first tensor with an axis, 0 without one."""
    if isinstance(batch, Tensor):
        return len(batch) if batch.dim() else 0
    parts = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, list | tuple) else ()
    return next((length for part in parts if (length := length_of(part))), 0)


def select(batch: Any, samples: Sequence[int], length: int) -> Any:
    """Return the batch of some of its samples; what has another length stays whole."""
    if isinstance(batch, Tensor):
        return batch[list(samples)] if batch.dim() and len(batch) == length else batch
    if isinstance(batch, Mapping):
        return {key: select(part, samples, length) for key, part in batch.items()}
    if isinstance(batch, list | tuple):
        if len(batch) == length and not any(isinstance(part, Tensor | Mapping | list | tuple) for part in batch):
            return [batch[i] for i in samples]  # names or texts, one for each sample
        parts = [select(part, samples, length) for part in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
    return batch


def find_samples(batch: Any, length: int, goes_wrong: Callable[[Any], bool], max_num: int) -> tuple[int, ...]:
    """Return samples that go wrong by themselves, by halves: log2(length) passes for a single one.

    Args:
        batch: Goes wrong as a whole.
        length: Its number of samples.
        goes_wrong: Called with parts of the batch. One that it cannot take (batch norm asks for two samples) is named
            as a whole.
        max_num: Samples to find at most.
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
            wrong = [half for half in halves if goes_wrong(select(batch, half, length))]
        except Exception:  # of the user's own code, which may ask anything of a batch
            wrong = []
        if not wrong and len(part) == length:
            return ()
        waiting += reversed(wrong)
        found += [] if wrong else part
    return tuple(found[:max_num])
