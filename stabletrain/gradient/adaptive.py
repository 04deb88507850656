"""Adaptive gradient clipping: each unit's gradient is held against the unit's own weights."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from stabletrain.errors import RequestError, require_choice, require_range
from stabletrain.gradient.clip import Clip
from stabletrain.gradient.norms import total_norm
from stabletrain.gradient.scale import choose_scale, limit_, shaped
from stabletrain.torch_tools.local_shards import (
    gradients_of,
    holds_whole_rows,
    is_sharded,
    part_of,
    select,
    shard_like,
    tensor_norms,
    widen,
)

EXCLUDES = ("last_linear", "none")


@torch.no_grad()
def clip_adaptively_(
    parameters: Iterable[nn.Parameter],
    clipping: float = 0.01,
    eps: float = 1e-3,
    *,
    exclude: Collection[nn.Parameter] = (),
    transposed: Mapping[nn.Parameter, int] | None = None,
) -> Tensor:
    """Each unit by its weights: G_i ← G_i · min(1, clipping · max(‖W_i‖, eps) / ‖G_i‖).

    A unit i is what feeds one output: a row of a weight, over all its other axes (inputs, space), so that in
    stacked recurrent weights it is one row of one gate. A tensor of one axis or none (bias, gain) is one unit.

    Args:
        parameters: Those whose `.grad` is None are skipped.
        clipping: Largest ratio of gradient to weight, λ, above 0.
        eps: Least weight norm reckoned with, above 0: without it, units that start at 0 would never leave it.
        exclude: Parameters that are left as they are.
        transposed: The weights of transposed convolutions, (in, out / groups, …), with their groups: their
            units lie along the second axis.

    Returns:
        The 2-norm of all gradients before.

    Raises:
        RequestError: A gradient is sparse in more than its rows.

    References:
        Brock et al. 2021, High-Performance Large-Scale Image Recognition Without Normalization, section 4.1,
        equation 3; one unit for a vector: the authors' code, `unitwise_norm`.
    """
    with_gradient = select(parameters)
    norm = total_norm(gradients_of(with_gradient))
    if not torch.isfinite(norm) or norm == 0:
        return norm
    excluded, groups = {id(p) for p in exclude}, {id(p): g for p, g in (transposed or {}).items()}
    chosen = [p for p in with_gradient if id(p) not in excluded and p.numel()]
    scale = choose_scale(norm, clipping * eps)
    units = _vectors([p for p in chosen if p.ndim <= 1], scale)
    units += [_rows(p, scale, groups.get(id(p))) for p in chosen if p.ndim > 1]
    limits = [unit.weight_norm.clamp(min=eps) * clipping for unit in units]
    limit_([unit.gradient for unit in units], [unit.norm for unit in units], limits, scale)
    return norm


class AdaptiveClip(Clip):
    """See `clip_adaptively_`.

    Args:
        clipping: Largest ratio of gradient norm to weight norm, above 0. 0.01 as in Brock et al. 2021, section 4.1,
            for batches of 4096; smaller batches bear more.
        eps: Least weight norm reckoned with, above 0. 1e-3 as there.
        exclude: `last_linear` leaves the last linear layer of the model that was attached unclipped, as there;
            `none` leaves out nothing. Without a model there is no last layer, and nothing is left out.

    Raises:
        RequestError: A number or name is not allowed.
    """

    def __init__(self, clipping: float = 0.01, eps: float = 1e-3, exclude: str = "last_linear") -> None:
        self.clipping = require_range("clipping", clipping, 0.0, open_minimum=True)
        self.eps = require_range("eps", eps, 0.0, open_minimum=True)
        self.exclude = require_choice("exclude", exclude, EXCLUDES)
        self._last: nn.Module | None = None
        self._transposed: list[_ConvTransposeNd] = []

    def attach(self, model: nn.Module) -> None:
        """Look for the last linear layer, in the order of definition, and for transposed convolutions.

        The modules are kept and not their parameters, which sharding replaces.
        """
        linear = [m for m in model.modules() if isinstance(m, nn.Linear)]
        self._last = linear[-1] if linear else None
        self._transposed = [m for m in model.modules() if isinstance(m, _ConvTransposeNd)]

    def __call__(self, parameters: Iterable[nn.Parameter]) -> Tensor:
        """Clip each unit; return the 2-norm of all gradients before."""
        return clip_adaptively_(
            parameters,
            self.clipping,
            self.eps,
            exclude=list(self._last.parameters()) if self._last is not None and self.exclude == "last_linear" else (),
            transposed={m.weight: m.groups for m in self._transposed if isinstance(m.weight, nn.Parameter)},
        )


class _Units(NamedTuple):
    """The own part of a gradient, and the norms of its units, of their weights too, shaped to multiply it."""

    gradient: Tensor
    norm: Tensor
    weight_norm: Tensor


def _vectors(parameters: list[nn.Parameter], scale: float | None) -> list[_Units]:
    gradients = gradients_of(parameters)
    norms, weight_norms = tensor_norms(gradients, scale=scale), tensor_norms([p.detach() for p in parameters])
    parts = [part_of(g) for g in gradients]
    return [_Units(p, shaped(n, p), w) for p, n, w in zip(parts, norms, weight_norms, strict=True)]


def _rows(parameter: Any, scale: float | None, groups: int | None) -> _Units:
    gradient, weight = parameter.grad, parameter.detach()
    part = part_of(gradient)
    if is_sharded(gradient) and not (groups is None and holds_whole_rows(gradient)):
        norms = (_unit_norm(gradient.full_tensor(), groups, scale), _unit_norm(weight.full_tensor(), groups))
        return _Units(part, *(_local_part(n.expand(gradient.shape), gradient) for n in norms))
    if gradient.layout == torch.sparse_coo:
        weight = weight[_row_indices(gradient)]
    return _Units(part, _unit_norm(part, groups, scale), _unit_norm(part_of(weight), groups))


def _unit_norm(tensor: Tensor, groups: int | None, scale: float | None = None) -> Tensor:
    """2-norm of each unit, shaped to multiply the tensor."""
    wide = widen(tensor, scale)
    if groups is None:
        return torch.linalg.vector_norm(wide, dim=tuple(range(1, wide.ndim)), keepdim=True)
    by_group = wide.unflatten(0, (groups, -1))  # (groups, in / groups, out / groups, …)
    norm = torch.linalg.vector_norm(by_group, dim=(1, *range(3, by_group.ndim)), keepdim=True)
    return norm.expand(-1, by_group.size(1), *norm.shape[2:]).flatten(0, 1)  # (in, out / groups, 1, …)


def _local_part(whole: Tensor, like: Any) -> Tensor:
    """Return this process' shard of a tensor that every process has whole."""
    return part_of(shard_like(whole.contiguous(), like))


def _row_indices(gradient: Tensor) -> Tensor:
    if gradient.sparse_dim() != 1:
        raise RequestError(
            "Adaptive clipping needs whole rows of a sparse gradient.",
            key="clip",
            found=f"a gradient of shape {tuple(gradient.shape)} that is sparse in {gradient.sparse_dim()} axes",
            allowed="gradients that are sparse in their first axis, as an embedding's",
            closest="norm",
        )
    return gradient.indices()[0]
