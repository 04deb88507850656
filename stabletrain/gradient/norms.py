"""The norm of all gradients together, that neither overflows nor underflows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from stabletrain.errors import require_range


@torch.no_grad()
def total_norm(gradients: Iterable[Tensor], norm_type: float = 2.0) -> Tensor:
    """‖g‖_p = (Σ |g_i|^p)^(1/p) over the elements of all tensors.

    torch's own norm raises elements to the power in their own dtype: finite float32 gradients of 3e38 give inf,
    and those of 1e-25 give 0. Where its result is out of the dtype's safe range it is computed again, in
    float64 and scaled by the largest element. Reading the result costs one wait for the device.

    Args:
        gradients: Tensors of any floating dtype, sharded (DTensor) or not.
        norm_type: p, above 0; inf for the largest magnitude.

    Returns:
        A scalar; float32 for half precision and for no gradients (0), float64 where float32 does not hold it.
        Non-finite if a gradient is.

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
    if any(g.dtype in (torch.float16, torch.bfloat16) for g in tensors):
        norm = _combine([torch.linalg.vector_norm(g, norm_type, dtype=torch.float32) for g in tensors], norm_type)
    else:
        norm = _gather(get_total_norm(tensors, norm_type))
    return norm if _is_safe(norm, norm_type) else _compute_scaled(tensors, norm_type, norm)


def is_finite(tensors: Iterable[Tensor]) -> bool:
    """Return whether no tensor holds inf or NaN."""
    return all(bool(_gather(torch.isfinite(t).all())) for t in tensors)


def _is_safe(norm: Tensor, norm_type: float) -> bool:
    """Whether powers of elements that count can neither have overflowed nor underflowed."""
    if norm_type == float("inf"):
        return True
    # An element 1e-4 of the norm may still count; its p-th power must be a normal number.
    smallest = torch.finfo(norm.dtype).tiny ** (1.0 / norm_type) * 1e4
    return bool((norm > smallest) & torch.isfinite(norm))


def _compute_scaled(tensors: list[Tensor], norm_type: float, norm: Tensor) -> Tensor:
    """Return m ‖g / m‖ in float64, m = max |g|; `norm` as it is if a gradient is zero or not finite."""
    largest = max(float(_gather(g.abs().max())) for g in tensors)
    if largest == 0.0 or not is_finite(tensors):
        return norm
    parts = [torch.linalg.vector_norm(g.abs().double() / largest, norm_type) for g in tensors]
    return _combine(parts, norm_type) * largest


def _combine(norms: list[Tensor], norm_type: float) -> Tensor:
    gathered = [_gather(norm) for norm in norms]
    return torch.linalg.vector_norm(torch.stack([n.to(gathered[0].device) for n in gathered]), norm_type)


def _gather(value: Any) -> Tensor:
    """A scalar of sharded tensors (DTensor) as a plain one."""
    return value.full_tensor() if hasattr(value, "full_tensor") else value
