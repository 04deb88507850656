"""Tensors that lie in parts on several processes (DTensor): each measures its part, and the counts add up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from stabletrain.signal.measure import measure_tensors
from stabletrain.signal.measures import Arrays, Measures, merge


def measure_shards(layers: Sequence[str], tensors: Sequence[Tensor], *, histograms: bool) -> Measures:
    """Measure tensors of which some are DTensors; every process must call it, and gets the whole.

    Each element is counted once, also where several processes hold it. One collective for all layers.

    Args:
        layers: Names, one for each tensor.
        tensors: Plain tensors, held alike by all processes, or DTensors.
        histograms: Whether to count exponents too.
    """
    own = measure_tensors(layers, [_own_part(x) for x in tensors], histograms=histograms)
    packed = _pack(own)
    parts = [torch.empty_like(packed) for _ in range(dist.get_world_size())]
    device = _device_of(tensors)
    gathered = [part.to(device) for part in parts]
    dist.all_gather(gathered, packed.to(device))
    arrays, sizes = zip(*(_unpack(part.cpu().numpy(), histograms) for part in gathered), strict=True)
    return Measures(layers, np.sum(sizes, axis=0), merge(arrays, sizes), with_counts=histograms)


def _own_part(x: Any) -> Tensor:
    """Return what this process counts of a tensor: its shard, and nothing of what another one counts already."""
    if not hasattr(x, "device_mesh"):
        return x if dist.get_rank() == 0 else x.new_empty(0)
    if any(placement.is_partial() for placement in x.placements):  # not summed up yet: no process holds a value
        x = x.full_tensor()
        return x if dist.get_rank() == 0 else x.new_empty(0)
    coordinate = x.device_mesh.get_coordinate()
    counts = coordinate is not None and all(
        placement.is_shard() or place == 0 for placement, place in zip(x.placements, coordinate, strict=True)
    )
    local = x.to_local()
    return local if counts else local.new_empty(0)


def _device_of(tensors: Sequence[Tensor]) -> torch.device:
    return tensors[0].device if dist.get_backend() == "nccl" else torch.device("cpu")


def _pack(measures: Measures) -> Tensor:
    """Return all numbers as one int64 tensor, the rms by its bits."""
    arrays = measures.arrays
    columns = [measures.sizes[:, None], arrays.num_nonfinite[:, None], arrays.rms.view(np.int64)[:, None]]
    if arrays.counts is not None and arrays.special is not None:
        columns += [arrays.counts, arrays.special]
    return torch.from_numpy(np.concatenate(columns, axis=1))


def _unpack(packed: np.ndarray, histograms: bool) -> tuple[Arrays, np.ndarray]:
    sizes, nonfinite, rms = packed[:, 0], packed[:, 1], np.ascontiguousarray(packed[:, 2]).view(np.float64)
    if not histograms:
        return Arrays(rms, nonfinite), sizes
    return Arrays(rms, nonfinite, packed[:, 3:-2], packed[:, -2:]), sizes
