"""The norm of all gradients together, without overflow or underflow."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from stabletrain.errors import require_range
from stabletrain.torch_tools.local_shards import is_sharded, tensor_norms

# A part of a gradient has no larger norm than the whole, so that its squares overflow float32 only where the whole
# is above 1.8e19.
LARGEST_UNSCALED = 1e18


def total_norm(gradients: Iterable[Tensor], norm_type: float = 2.0) -> Tensor:
    """‖g‖_p = (Σ |g_i|^p)^(1/p) over the elements of all tensors.

    PyTorch's own norm raises elements to the power in their own dtype: finite float32 gradients of 3e38 give inf, and
    those of 1e-25 give 0. Where its result is outside the dtype's safe range, it is computed again, in float64 and
    scaled by the largest element. Checking this takes one read of the device.

    Args:
        gradients: Tensors of any floating-point dtype, dense, sparse or sharded (DTensor).
        norm_type: p, above 0; inf for the largest magnitude.

    Returns:
        A scalar; float32 for half precision and for no gradients (0), float64 where float32 cannot hold it.
        Non-finite if a gradient is. The same in every process where gradients are sharded.

    Raises:
        RequestError: `norm_type` is not above 0.

    Example:
        >>> total_norm([torch.tensor([3.0]), torch.tensor([4.0])])
        tensor(5.)
    """
    if norm_type != float("inf"):
        require_range("norm_type", norm_type, 0.0, open_minimum=True)
    tensors = list(gradients)
    norm = measure_norm(tensors, norm_type)
    return exact_norm(tensors, norm_type, norm, float(norm))[0]


@torch.no_grad()
def measure_norm(gradients: Iterable[Tensor], norm_type: float = 2.0) -> Tensor:
    """Return ‖g‖_p computed in the gradients' own precision, without reading the device; see `total_norm`."""
    tensors = _not_empty(gradients)
    if not tensors:
        return torch.zeros(())
    # PyTorch's norm fails on the range of half precision, on sparse tensors and, for p = inf, on an empty shard.
    is_plain = all(t.layout == torch.strided and not is_sharded(t) for t in tensors)
    if is_plain and not any(t.dtype in (torch.float16, torch.bfloat16) for t in tensors):
        return get_total_norm(tensors, norm_type)
    return _combine(tensor_norms(tensors, norm_type), norm_type)


def is_ordinary(norm: Tensor, norm_type: float) -> Tensor:
    """Return, as a scalar bool tensor, whether a norm of `measure_norm` is exact and at most 1e18."""
    is_small = norm <= LARGEST_UNSCALED  # false for NaN and Inf
    return is_small if norm_type == float("inf") else is_small & (norm > _smallest_exact(norm.dtype, norm_type))


@torch.no_grad()
def exact_norm(gradients: Iterable[Tensor], norm_type: float, norm: Tensor, value: float) -> tuple[Tensor, float]:
    """Return m ‖g / m‖ in float64, m = max |g|, where powers of elements may have overflowed or underflowed.

    Args:
        gradients: As for `measure_norm`.
        norm_type: p.
        norm: What `measure_norm` returned.
        value: The same on the host.

    Returns:
        The exact norm and its value on the host; `norm` and `value` where they are exact, and where all gradients are
        zero or one is not finite.
    """
    # A NaN in the norm is one in the gradients: powers of finite numbers overflow to inf.
    if norm_type == float("inf") or math.isnan(value) or _smallest_exact(norm.dtype, norm_type) < value < math.inf:
        return norm, value
    tensors = _not_empty(gradients)
    largest = float(_combine(tensor_norms(tensors, float("inf")), float("inf"))) if tensors else 0.0
    if largest == 0.0 or not math.isfinite(largest):
        return norm, value
    scaled = _combine(tensor_norms(tensors, norm_type, scale=largest), norm_type) * largest
    return scaled, float(scaled)


def _smallest_exact(dtype: torch.dtype, norm_type: float) -> float:
    """Return the norm above which an element of 1e-4 of it, which may still count, has a normal number as its power."""
    return torch.finfo(dtype).tiny ** (1.0 / norm_type) * 1e4


def _not_empty(gradients: Iterable[Tensor]) -> list[Tensor]:
    return [g.detach() for g in gradients if g.numel()]


def _combine(norms: Sequence[Tensor], norm_type: float) -> Tensor:
    widest = max((n.dtype for n in norms), key=lambda dtype: torch.finfo(dtype).bits)
    return torch.linalg.vector_norm(torch.stack([n.to(norms[0].device, widest) for n in norms]), norm_type)
