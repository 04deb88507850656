"""Multiplying gradients in place, also by factors too small for the gradients' own precision."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_

from stabletrain.gradient.norms import LARGEST_UNSCALED
from stabletrain.torch_tools.local_shards import gradients_of, is_sharded, part_of

EPS = 1e-6  # added to the norm before dividing by it, as torch.nn.utils.clip_grads_with_norm_ does
SMALLEST_LIMIT = 1e-15  # the square root of float32's smallest number is 1.1e-19
SMALLEST_FACTOR = torch.finfo(torch.float32).tiny


@torch.no_grad()
def scale_to_norm_(parameters: list[nn.Parameter], max_norm: float, norm: Tensor, applies: Tensor) -> Tensor:
    """Scale to a norm, g ← g · min(1, max_norm / (norm + 1e-6)), where `applies` is true, without reading the device.

    Args:
        parameters: All have a gradient.
        max_norm: Limit, above 0.
        norm: Scalar.
        applies: Scalar bool.

    Returns:
        norm · min(1, max_norm / (norm + 1e-6)).
    """
    gradients = gradients_of(parameters)
    factor = torch.clamp(max_norm / (norm + EPS), max=1.0)
    if all(g.layout == torch.strided and not is_sharded(g) for g in gradients):
        unclipped = torch.full_like(norm, -EPS)  # max_norm / 0: a factor of 1
        clip_grads_with_norm_(parameters, max_norm, torch.where(applies, norm, unclipped))
    else:
        wide = torch.where(applies, torch.clamp(max_norm / (norm.double() + EPS), max=1.0), 1.0)
        for part in map(part_of, gradients):
            dtype = torch.promote_types(part.dtype, torch.float32)
            part.mul_(shaped(wide.to(part.device, dtype), part))
    return norm * factor


@torch.no_grad()
def scale_(parameters: list[nn.Parameter], factor: float) -> None:
    """Scale all gradients, g ← g · factor, in two steps where float32 cannot hold the factor.

    Args:
        parameters: All have a gradient.
        factor: From above 0 to 1.
    """
    is_small = factor < SMALLEST_FACTOR
    for part in map(part_of, gradients_of(parameters)):
        if is_small:
            part.mul_(factor**0.5).mul_(factor**0.5)
        else:
            part.mul_(factor)


def choose_scale(norm: float | None, smallest_limit: float) -> float | None:
    """Return what to divide gradients by before their norms are compared with limits; None for no division.

    Args:
        norm: Total norm on the host; None if it has not been read, which only ordinary norms are not.
        smallest_limit: The smallest limit.
    """
    if norm is None:
        return None
    return norm if norm > LARGEST_UNSCALED or (norm > 0.0 and smallest_limit < SMALLEST_LIMIT) else None


@torch.no_grad()
def limit_(
    parts: Sequence[Tensor],
    norms: Sequence[Tensor],
    limits: Sequence[Tensor] | float,
    applies: Tensor,
    scale: float | None = None,
) -> None:
    """Scale parts of gradients down to their limits where their norms are above, without reading the device.

    The factors of all parts are computed together: for many small tensors the number of calls is what costs.

    Args:
        parts: Changed in place.
        norms: Norm of each part, shaped to multiply it; divided by `scale`.
        limits: One for all, or one for each part, of its norm's size.
        applies: Scalar bool; nothing is changed where it is false.
        scale: See `choose_scale`.
    """
    for group in _group_by_kind(norms):
        flat = torch.cat([norms[i].reshape(-1) for i in group])
        limit = torch.full_like(flat, limits) if isinstance(limits, float | int) else _flatten(limits, group, flat)
        factors = torch.where(applies.to(flat.device), limit_factor(flat, limit, scale), 1.0)
        for i, factor in zip(group, factors.split([norms[i].numel() for i in group]), strict=True):
            # Of one axis or more: the product is computed in the factor's dtype, as a scalar tensor's would not be.
            parts[i].mul_(factor.reshape(norms[i].shape))


def limit_factor(norm: Tensor, limit: Tensor, scale: float | None = None) -> Tensor:
    """min(1, limit / norm), 1 for a norm of 0, for norms that were divided by `scale` before."""
    limit = limit / (scale or 1.0)
    return torch.where(norm > limit, limit / norm, 1.0)


def shaped(norm: Tensor, part: Tensor) -> Tensor:
    """Return a scalar with as many axes as the part that it is to multiply."""
    return norm.reshape([1] * part.ndim)


def _flatten(limits: Sequence[Tensor], group: list[int], like: Tensor) -> Tensor:
    return torch.cat([limits[i].reshape(-1).to(like) for i in group])


def _group_by_kind(norms: Sequence[Tensor]) -> list[list[int]]:
    groups: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for i, norm in enumerate(norms):
        groups.setdefault((norm.device, norm.dtype), []).append(i)
    return list(groups.values())
