"""Count reads of tensor values by the host. They are counted on the CPU; on a GPU, each would wait for the device."""

from __future__ import annotations

from collections import Counter

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten

# `float(t)`, `int(t)`, `bool(t)`, `t.item()`, `if a < b` and `math.isfinite(t)` all dispatch `_local_scalar_dense`.
# The others return a bool or a shape that depends on values.
READS = {
    aten._local_scalar_dense,
    aten.is_nonzero,
    aten.equal,
    aten.allclose,
    aten.nonzero,
    aten.masked_select,
    aten._unique2,
    aten.unique_dim,
    aten.repeat_interleave,
}
# These read without dispatching an operation on the CPU, or copy from another device to the host.
COPIES = {torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.__array__, torch.Tensor.cpu, torch.Tensor.__contains__}


class HostReads(TorchDispatchMode):
    """Counts reads while active: `total` is their number, `by_name` the number per operation."""

    def __init__(self) -> None:
        super().__init__()
        self.by_name: Counter[str] = Counter()
        self._copies = _Copies(self.by_name)

    @property
    def total(self) -> int:
        return sum(self.by_name.values())

    def __enter__(self):
        self._copies.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        return self._copies.__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket in READS or _is_masked(func, args):
            self.by_name[str(func)] += 1
        return func(*args, **(kwargs or {}))


class _Copies(TorchFunctionMode):
    def __init__(self, by_name: Counter[str]) -> None:
        super().__init__()
        self._by_name = by_name

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in COPIES:
            self._by_name[func.__name__] += 1
        return func(*args, **(kwargs or {}))


def _is_masked(func, args) -> bool:
    """Return whether an index is a mask, whose number of true elements the host must know."""
    if func.overloadpacket not in (aten.index, aten.index_put, aten.index_put_):
        return False
    return any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1])
