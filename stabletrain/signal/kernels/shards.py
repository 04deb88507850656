"""Measuring tensors that are sharded over processes (`DTensor`): each measures its part, and the results are summed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from stabletrain.signal.kernels.reduce import measure_tensors
from stabletrain.signal.layer_statistics import Arrays, Measures
from stabletrain.torch_tools.local_shards import counted_part


def measure_shards(layers: Sequence[str], tensors: Sequence[Tensor], *, histograms: bool) -> Measures:
    """Measure tensors some of which are `DTensor`s. All processes must call this, and get the same result.

    Each element is counted once, even if several processes hold it. Takes two collectives for all layers.

    Args:
        layers: Names, one for each tensor.
        tensors: `DTensor`s, or plain tensors that are equal on all processes.
        histograms: Whether to count exponents too.
    """
    rank = dist.get_rank()
    own = measure_tensors(layers, [counted_part(x, rank) for x in tensors], histograms=histograms)
    return _add_up(own, _device_for(tensors[0].device))


def add_up(signals: Mapping[str, Measures], device: torch.device) -> dict[str, Measures]:
    """Sum what each process measured on its part of the batch. All processes must call this, and get the same result.

    Args:
        signals: The same signals of the same layers on every process; two collectives for all of them.
        device: Device of the model, which NCCL sends from.
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
    """Reduce in two collectives, whose size does not depend on the number of processes: largest rms, then all sums.

    Squares are summed in units of the largest rms, so that those of float64 tensors stay in range. Counts are exact,
    since float64 represents every integer up to 2**53.
    """
    arrays = own.arrays
    rms = np.nan_to_num(arrays.rms)  # NaN if no element is finite
    largest = _reduce(rms, dist.ReduceOp.MAX, device)
    unit = np.where(largest > 0, largest, 1.0)
    sums = [own.sizes, arrays.num_nonfinite, np.square(rms / unit) * (own.sizes - arrays.num_nonfinite)]
    columns = [x.astype(np.float64)[:, None] for x in sums]
    columns += [x.astype(np.float64) for x in (arrays.counts, arrays.special) if x is not None]
    whole = _reduce(np.concatenate(columns, axis=1), dist.ReduceOp.SUM, device)
    sizes, num_nonfinite = (whole[:, i].astype(np.int64) for i in (0, 1))
    counts, special = None, None
    if own.with_counts:
        counts, special = whole[:, 3:-2].astype(np.int64), whole[:, -2:].astype(np.int64)
    with np.errstate(invalid="ignore"):  # no finite element: 0/0 = NaN
        root = np.sqrt(whole[:, 2] / (sizes - num_nonfinite)) * unit
    return Measures(own.layers, sizes, Arrays(root, num_nonfinite, counts, special), with_counts=own.with_counts)


def _reduce(x: np.ndarray, operation: Any, device: torch.device) -> np.ndarray:
    tensor = torch.tensor(x, device=device)  # a copy, since it is reduced in place
    dist.all_reduce(tensor, operation)
    return tensor.cpu().numpy()


def _stack(parts: Sequence[Measures]) -> Measures:
    """Concatenate the rows of several signals."""
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


def _device_for(device: torch.device) -> torch.device:
    return device if dist.get_backend() == "nccl" else torch.device("cpu")
