"""Multiplying gradients in place, also by factors too small for the gradient's own precision."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_

from stabletrain.torch_tools.local_shards import gradients_of, is_sharded, part_of

# Added to the norm before dividing by it, as torch.nn.utils.clip_grads_with_norm_ does.
EPS = 1e-6


@torch.no_grad()
def scale_to_norm_(parameters: list[nn.Parameter], max_norm: float, norm: Tensor) -> None:
    """Do g ← g · min(1, max_norm / (norm + 1e-6)), by torch's own function where it can."""
    factor = max_norm / (float(norm) + EPS)
    whole = all(g.layout == torch.strided and not is_sharded(g) for g in gradients_of(parameters))
    if whole and factor >= torch.finfo(torch.float32).tiny:
        clip_grads_with_norm_(parameters, max_norm, norm)
    elif factor < 1.0:
        scale_(parameters, factor)


@torch.no_grad()
def scale_(parameters: list[nn.Parameter], factor: float) -> None:
    """Do g ← g · factor, in two steps where float32 does not hold the factor.

    Args:
        parameters: All have a gradient.
        factor: From above 0 to 1.
    """
    small = factor < torch.finfo(torch.float32).tiny
    for gradient in gradients_of(parameters):
        part = part_of(gradient)
        if small:
            part.mul_(factor**0.5).mul_(factor**0.5)
        else:
            part.mul_(factor)


def choose_scale(norm: Tensor, smallest_limit: float) -> float | None:
    """Return by what to divide gradients before their norms are compared with limits, or None for nothing.

    A part of a gradient has no larger norm than the whole, so that its squares overflow float32 only where the
    whole is above 1.8e19; and only limits near float32's smallest square root, 1.1e-19, care about underflow.
    """
    total = float(norm)
    return total if total > 1e18 or (total > 0.0 and smallest_limit < 1e-15) else None


@torch.no_grad()
def limit_(
    parts: Sequence[Tensor], norms: Sequence[Tensor], limits: Sequence[Tensor] | float, scale: float | None = None
) -> None:
    """Scale parts of gradients down to their limits, where their norms are above.

    The factors are computed for all parts together: for many small tensors, calls are what costs.

    Args:
        parts: To be changed.
        norms: Of each part, shaped to multiply it; divided by `scale`.
        limits: For all, or for each part of its norm's size.
        scale: See `choose_scale`.
    """
    for together in _group_by_kind(norms):
        flat = torch.cat([norms[i].reshape(-1) for i in together])
        limit = torch.full_like(flat, limits) if isinstance(limits, float | int) else _flatten(limits, together, flat)
        factors = limit_factor(flat, limit, scale).split([norms[i].numel() for i in together])
        for i, factor in zip(together, factors, strict=True):
            parts[i].mul_(
                factor.reshape(norms[i].shape)
            )  # of one axis or more: a tensor's dtype counts, a scalar's not


def limit_factor(norm: Tensor, limit: Tensor, scale: float | None = None) -> Tensor:
    """min(1, limit / norm), 1 for a norm of 0, for norms that were divided by `scale` before."""
    limit = limit / (scale or 1.0)
    return torch.where(norm > limit, limit / norm, 1.0)


def shaped(norm: Tensor, part: Tensor) -> Tensor:
    """Return a scalar with as many axes as what it is to multiply."""
    return norm.reshape([1] * part.ndim)


def _flatten(limits: Sequence[Tensor], together: list[int], like: Tensor) -> Tensor:
    return torch.cat([limits[i].reshape(-1).to(like) for i in together])


def _group_by_kind(norms: Sequence[Tensor]) -> list[list[int]]:
    groups: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for i, norm in enumerate(norms):
        groups.setdefault((norm.device, norm.dtype), []).append(i)
    return list(groups.values())
