"""Access the local part of distributed (`DTensor`) and sparse tensors, and compute norms over all shards.

This is the only module that distinguishes a `DTensor` from a plain tensor; all others call it. Each process computes on
its local part; results are then reduced over the processes of the tensor's mesh. All processes must therefore make the
same calls in the same order, even those whose shard is empty.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def is_sharded(tensor: Any) -> bool:
    """Return whether a tensor is a `DTensor`, without importing `torch.distributed`."""
    return hasattr(tensor, "device_mesh")


def any_sharded(tensors: Iterable[Tensor]) -> bool:
    """Return whether any of the tensors is a `DTensor`."""
    return any(map(is_sharded, tensors))


def part_of(tensor: Any) -> Tensor:
    """Return the elements that this process holds as a view: its shard, or the values of a sparse tensor.

    The values are a view only if the sparse tensor is coalesced, which `select` ensures.
    """
    if is_sharded(tensor):
        return tensor.to_local()
    if tensor.layout == torch.sparse_coo:
        return tensor.coalesce().values()
    return tensor if tensor.layout == torch.strided else tensor.values()


def counted_part(tensor: Any, rank: int) -> Tensor:
    """Return the elements that this process counts, so that over all processes each element is counted once.

    Args:
        tensor: A `DTensor`, or a plain tensor of which every process holds a copy.
        rank: Rank of this process in the default group; rank 0 counts what is not sharded.
    """
    if is_sharded(tensor) and not any(p.is_partial() for p in tensor.placements):
        coordinate = tensor.device_mesh.get_coordinate()  # None: this process is not part of the mesh
        is_counted = coordinate is not None and all(
            p.is_shard() or i == 0 for p, i in zip(tensor.placements, coordinate, strict=True)
        )
        local = tensor.to_local()
        return local if is_counted else local.new_empty(0)
    if is_sharded(tensor):  # pending sums, whose value no process holds yet
        tensor = tensor.full_tensor()
    return tensor if rank == 0 else tensor.new_empty(0)


def holds_whole_rows(tensor: Any) -> bool:
    """Return whether each row (index of the first axis) of a `DTensor` is held by one process in full."""
    return all(p.is_replicate() or p.is_shard(0) for p in tensor.placements)


def shard_like(whole: Tensor, like: Any) -> Any:
    """Shard a tensor of which every process holds a copy, with the mesh and placements of `like`.

    Nothing is communicated; each process keeps its own part.
    """
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)


def select(parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    """Return the parameters that have a gradient, each once; sparse gradients are coalesced in place."""
    chosen = list({id(p): p for p in parameters if p.grad is not None}.values())
    for parameter in chosen:
        gradient = parameter.grad
        if gradient is not None and gradient.layout == torch.sparse_coo and not gradient.is_coalesced():
            parameter.grad = gradient.coalesce()
    return chosen


def gradients_of(parameters: Iterable[nn.Parameter]) -> list[Tensor]:
    """Return the gradients that are not None."""
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


@torch.no_grad()
def tensor_norms(tensors: Sequence[Tensor], norm_type: float = 2.0, scale: float | None = None) -> list[Tensor]:
    """Return ‖t‖_p of each tensor, over all its shards.

    Args:
        tensors: Dense, sparse or distributed.
        norm_type: p > 0; `inf` for the maximum of |t|.
        scale: If given, elements are divided by it in float64 before raising to the power, and the result is
            ‖t‖_p / scale.

    Returns:
        Scalar tensors, identical on every process; float32 for half-precision inputs, float64 if scaled.
    """
    norms = [_part_norm(part_of(t.detach()), norm_type, scale) for t in tensors]
    for indices in _group_by_placement(tensors):
        together = _over_shards(torch.stack([norms[i] for i in indices]), tensors[indices[0]], norm_type)
        for i, norm in zip(indices, together, strict=True):
            norms[i] = norm
    return norms


def widen(tensor: Tensor, scale: float | None = None) -> Tensor:
    """Return a tensor in float32 or wider; with `scale`, divided by it in float64."""
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
    """Return the indices of distributed tensors, grouped so that one collective can reduce each group."""
    groups: dict[Any, list[int]] = {}
    for i, tensor in enumerate(tensors):
        if is_sharded(tensor):
            sharded: Any = tensor
            key = (sharded.device_mesh, tuple(p.is_shard() for p in sharded.placements), tensor.dtype)
            groups.setdefault(key, []).append(i)
    return list(groups.values())


def _over_shards(norms: Tensor, like: Any, norm_type: float) -> Tensor:
    """Reduce the norms of shards; a NaN in any of them results in NaN on every process, even for the maximum."""
    from torch.distributed.tensor import DTensor, Partial, Replicate

    def reduce(values: Tensor, operation: str) -> Tensor:
        placements = [Partial(operation) if p.is_shard() else Replicate() for p in like.placements]
        return DTensor.from_local(values, like.device_mesh, placements, run_check=False).full_tensor()

    if norm_type == float("inf"):
        return reduce(norms.nan_to_num(), "max") + reduce(norms * 0, "sum")
    return reduce(norms**norm_type, "sum") ** (1.0 / norm_type)
