"""The norm of all gradients together, that neither overflows nor underflows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from stabletrain.errors import require_range
from stabletrain.torch_tools.local_shards import is_sharded, tensor_norms


@torch.no_grad()
def total_norm(gradients: Iterable[Tensor], norm_type: float = 2.0) -> Tensor:
    """‖g‖_p = (Σ |g_i|^p)^(1/p) over the elements of all tensors.

    torch's own norm raises elements to the power in their own dtype: finite float32 gradients of 3e38 give inf,
    and those of 1e-25 give 0. Where its result is out of the dtype's safe range it is computed again, in
    float64 and scaled by the largest element. Reading the result costs one wait for the device.

    Args:
        gradients: Tensors of any floating dtype, dense, sparse or sharded (DTensor).
        norm_type: p, above 0; inf for the largest magnitude.

    Returns:
        A scalar; float32 for half precision and for no gradients (0), float64 where float32 does not hold it.
        Non-finite if a gradient is. The same in every process where gradients are sharded.

    Raises:
        RequestError: `norm_type` is not above 0.

    Example:
        >>> total_norm([torch.tensor([3.0]), torch.tensor([4.0])])
        tensor(5.)
    """
    if norm_type != float("inf"):
        require_range("norm_type", norm_type, 0.0, open_minimum=True)
    tensors = [g.detach() for g in gradients if g.numel()]
    if not tensors:
        return torch.zeros(())
    norm = _norm(tensors, norm_type)
    return norm if _is_safe(norm, norm_type) else _compute_scaled(tensors, norm_type, norm)


def _norm(tensors: Sequence[Tensor], norm_type: float) -> Tensor:
    # torch's norm fails on half precision's range, on sparse tensors and, for p = inf, on an empty shard.
    whole = all(t.layout == torch.strided and not is_sharded(t) for t in tensors)
    if whole and not any(t.dtype in (torch.float16, torch.bfloat16) for t in tensors):
        return get_total_norm(list(tensors), norm_type)
    return _combine(tensor_norms(tensors, norm_type), norm_type)


def _is_safe(norm: Tensor, norm_type: float) -> bool:
    """Whether powers of elements that count can neither have overflowed nor underflowed."""
    if norm_type == float("inf"):
        return True
    # An element 1e-4 of the norm may still count; its p-th power must be a normal number.
    smallest = torch.finfo(norm.dtype).tiny ** (1.0 / norm_type) * 1e4
    return bool((norm > smallest) & torch.isfinite(norm))


def _compute_scaled(tensors: Sequence[Tensor], norm_type: float, norm: Tensor) -> Tensor:
    """Return m ‖g / m‖ in float64, m = max |g|; `norm` as it is if a gradient is zero or not finite."""
    largest = float(_combine(tensor_norms(tensors, float("inf")), float("inf")))
    if largest == 0.0 or not math.isfinite(largest):
        return norm
    return _combine(tensor_norms(tensors, norm_type, scale=largest), norm_type) * largest


def _combine(norms: Sequence[Tensor], norm_type: float) -> Tensor:
    widest = max((n.dtype for n in norms), key=lambda dtype: torch.finfo(dtype).bits)
    return torch.linalg.vector_norm(torch.stack([n.to(norms[0].device, widest) for n in norms]), norm_type)
