"""Tensors that lie in parts on several processes (DTensor): each measures its part, and the counts add up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    return _add_up(own, _device_for(tensors[0].device))


def add_up(signals: Mapping[str, Measures], device: torch.device) -> dict[str, Measures]:
    """Add up what each process measured of its part of the batch; every process must call it, and gets the whole.

    Args:
        signals: The same signals of the same layers in every process. One collective for all of them.
        device: Where the model is: NCCL sends from there.
    """
    if not signals:
        return {}
    rows = [Measures.of(x) for x in signals.values()]
    whole = _add_up(_stack(rows), _device_for(device))
    found, begin = {}, 0
    for name, own in zip(signals, rows, strict=True):
        found[name] = _cut(whole, begin, begin + len(own))
        begin += len(own)
    return found


def _add_up(own: Measures, device: torch.device) -> Measures:
    packed = _pack(own).to(device)
    gathered = [torch.empty_like(packed) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, packed)
    arrays, sizes = zip(*(_unpack(part.cpu().numpy(), own.with_counts) for part in gathered), strict=True)
    return Measures(own.layers, np.sum(sizes, axis=0), merge(arrays, sizes), with_counts=own.with_counts)


def _stack(parts: Sequence[Measures]) -> Measures:
    """Return the rows of several signals as one."""
    arrays, with_counts = [x.arrays for x in parts], parts[0].with_counts
    fields = ("rms", "num_nonfinite", "counts", "special") if with_counts else ("rms", "num_nonfinite")
    columns = [np.concatenate([getattr(x, name) for x in arrays]) for name in fields]
    layers = [layer for x in parts for layer in x.layers]
    return Measures(layers, np.concatenate([x.sizes for x in parts]), Arrays(*columns), with_counts=with_counts)


def _cut(whole: Measures, begin: int, end: int) -> Measures:
    a, rows = whole.arrays, slice(begin, end)
    counts, special = (None if x is None else x[rows] for x in (a.counts, a.special))
    arrays = Arrays(a.rms[rows], a.num_nonfinite[rows], counts, special)
    return Measures(whole.layers[rows], whole.sizes[rows], arrays, with_counts=whole.with_counts)


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


def _device_for(device: torch.device) -> torch.device:
    return device if dist.get_backend() == "nccl" else torch.device("cpu")


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
