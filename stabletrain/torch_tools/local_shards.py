"""Tensors that are not simply there: sharded over processes (DTensor), or sparse.

All in this room is computed on what the own process holds, and results are combined over the processes where a
tensor is sharded. Every process must make the same calls in the same order; its own shard may be empty.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def is_sharded(tensor: Tensor) -> bool:
    """Return whether a tensor is a DTensor; found out without importing torch.distributed."""
    return hasattr(tensor, "full_tensor")


def part_of(tensor: Any) -> Tensor:
    """Return the elements that this process holds, in the same memory: a shard, or a sparse tensor's values.

    A sparse tensor must be coalesced for its memory to be shared; see `select`.
    """
    if is_sharded(tensor):
        return tensor.to_local()
    if tensor.layout == torch.sparse_coo:
        return tensor.coalesce().values()
    return tensor if tensor.layout == torch.strided else tensor.values()


def select(parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    """Return the parameters that have a gradient, each once; rows that a sparse gradient lists twice are added up."""
    chosen = list({id(p): p for p in parameters if p.grad is not None}.values())
    for parameter in chosen:
        gradient = parameter.grad
        if gradient is not None and gradient.layout == torch.sparse_coo and not gradient.is_coalesced():
            parameter.grad = gradient.coalesce()
    return chosen


def gradients_of(parameters: Iterable[nn.Parameter]) -> list[Tensor]:
    """Return the gradients that there are."""
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


@torch.no_grad()
def tensor_norms(tensors: Sequence[Tensor], norm_type: float = 2.0, scale: float | None = None) -> list[Tensor]:
    """‖t‖_p of each tensor, over all its shards.

    Args:
        tensors: Dense, sparse or sharded.
        norm_type: p, above 0; inf for the largest magnitude.
        scale: Elements are divided by it, in float64, before powers are taken; the norm stays divided.

    Returns:
        Scalars, the same in every process; float32 for half precision, float64 if scaled.
    """
    norms = [_part_norm(part_of(t.detach()), norm_type, scale) for t in tensors]
    for indices in _group_by_placement(tensors):
        together = _over_shards(torch.stack([norms[i] for i in indices]), tensors[indices[0]], norm_type)
        for i, norm in zip(indices, together, strict=True):
            norms[i] = norm
    return norms


def widen(tensor: Tensor, scale: float | None = None) -> Tensor:
    """Return a tensor in at least float32; divided by `scale` in float64 if that is given."""
    if scale is not None:
        return tensor.double() / scale
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _part_norm(part: Tensor, norm_type: float, scale: float | None) -> Tensor:
    if part.numel() == 0:  # an empty shard, or a sparse gradient without rows
        return torch.zeros((), device=part.device, dtype=widen(part[:0], scale).dtype)
    dtype = torch.float32 if part.dtype in (torch.float16, torch.bfloat16) else None
    if scale is None:
        return torch.linalg.vector_norm(part, norm_type, dtype=dtype)
    return torch.linalg.vector_norm(widen(part, scale), norm_type)


def _group_by_placement(tensors: Sequence[Tensor]) -> list[list[int]]:
    """Return the places of sharded tensors, those together that one message between the processes can serve."""
    groups: dict[Any, list[int]] = {}
    for i, tensor in enumerate(tensors):
        if is_sharded(tensor):
            sharded: Any = tensor
            key = (sharded.device_mesh, tuple(p.is_shard() for p in sharded.placements), tensor.dtype)
            groups.setdefault(key, []).append(i)
    return list(groups.values())


def _over_shards(norms: Tensor, like: Any, norm_type: float) -> Tensor:
    """Combine the norms of shards; a NaN anywhere becomes a NaN everywhere, also in a maximum."""
    from torch.distributed.tensor import DTensor, Partial, Replicate

    def reduce(values: Tensor, operation: str) -> Tensor:
        placements = [Partial(operation) if p.is_shard() else Replicate() for p in like.placements]
        return DTensor.from_local(values, like.device_mesh, placements, run_check=False).full_tensor()

    if norm_type == float("inf"):
        return reduce(norms.nan_to_num(), "max") + reduce(norms * 0, "sum")
    return reduce(norms**norm_type, "sum") ** (1.0 / norm_type)
