"""Adaptive gradient clipping: the gradient of each unit is limited relative to the unit's weights."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from stabletrain.errors import RequestError, require_choice, require_range
from stabletrain.gradient.device_clip import DeviceClip, Norm
from stabletrain.gradient.scale import choose_scale, limit_, shaped
from stabletrain.torch_tools.local_shards import (
    gradients_of,
    holds_whole_rows,
    is_sharded,
    part_of,
    shard_like,
    tensor_norms,
    widen,
)

EXCLUDES = ("last_linear", "none")


class AdaptiveClip(DeviceClip, name="adaptive"):
    """Each unit relative to its weights: G_i ← G_i · min(1, clipping · max(‖W_i‖, eps) / ‖G_i‖).

    A unit i is what feeds one output: a row of a weight, over all its other axes (inputs, space), so that in stacked
    recurrent weights it is one row of one gate, and in the weight of a transposed convolution,
    (in, out / groups, …), one output channel. A tensor with at most one axis (bias, gain) is one unit.

    Args:
        clipping: Largest ratio of gradient norm to weight norm, above 0. 0.01 as in Brock et al. 2021, section 4.1,
            for batches of 4096; smaller batches tolerate more.
        eps: Floor on the weight norm, above 0: without it, units initialized to 0 would never train. 1e-3 as there.
        exclude: `last_linear` leaves the last linear layer of the attached model unclipped, as there; `none`
            excludes nothing. Without an attached model there is no last layer, and nothing is excluded.

    Raises:
        RequestError: A number or name is not allowed, or a gradient is sparse in more than its rows.

    References:
        Brock et al. 2021, High-Performance Large-Scale Image Recognition Without Normalization, section 4.1,
        equation 3; one unit for a vector: the authors' code, `unitwise_norm`.
    """

    def __init__(self, clipping: float = 0.01, eps: float = 1e-3, exclude: str = "last_linear") -> None:
        self.clipping = require_range("clipping", clipping, 0.0, open_minimum=True)
        self.eps = require_range("eps", eps, 0.0, open_minimum=True)
        self.exclude = require_choice("exclude", exclude, EXCLUDES)
        self.smallest_limit = clipping * eps
        self._last: nn.Module | None = None
        self._transposed: list[_ConvTransposeNd] = []

    def attach(self, model: nn.Module) -> None:
        """Find the last linear layer, in the order of definition, and the transposed convolutions.

        The modules are stored and not their parameters, which sharding replaces.
        """
        linear = [m for m in model.modules() if isinstance(m, nn.Linear)]
        self._last = linear[-1] if linear else None
        self._transposed = [m for m in model.modules() if isinstance(m, _ConvTransposeNd)]

    @torch.no_grad()
    def limit_(self, parameters: list[nn.Parameter], norm: Norm) -> None:
        """Scale the gradient of each unit by its own factor."""
        excluded, groups = {id(p) for p in self._excluded()}, {id(p): n for p, n in self._transposed_groups()}
        chosen = [p for p in parameters if id(p) not in excluded and p.numel()]
        scale = choose_scale(norm.host, self.smallest_limit)
        units = _vectors([p for p in chosen if p.ndim <= 1], scale)
        units += [_rows(p, scale, groups.get(id(p))) for p in chosen if p.ndim > 1]
        limits = [unit.weight_norm.clamp(min=self.eps) * self.clipping for unit in units]
        limit_([unit.gradient for unit in units], [unit.norm for unit in units], limits, norm.applies, scale)

    def _excluded(self) -> Iterable[nn.Parameter]:
        return self._last.parameters() if self._last is not None and self.exclude == "last_linear" else ()

    def _transposed_groups(self) -> Iterable[tuple[nn.Parameter, int]]:
        return [(m.weight, m.groups) for m in self._transposed if isinstance(m.weight, nn.Parameter)]


def clip_adaptively_(
    parameters: Iterable[nn.Parameter],
    clipping: float = 0.01,
    eps: float = 1e-3,
    *,
    exclude: Collection[nn.Parameter] = (),
    transposed: Mapping[nn.Parameter, int] | None = None,
) -> Tensor:
    """Clip every unit relative to its weights, see `AdaptiveClip`; return the total 2-norm before clipping.

    Args:
        parameters: Those whose `.grad` is None are skipped.
        clipping: See `AdaptiveClip`.
        eps: See `AdaptiveClip`.
        exclude: Parameters that are left as they are.
        transposed: The weights of transposed convolutions, with their groups.
    """
    return _GivenClip(clipping, eps, exclude, transposed or {})(parameters)


class _GivenClip(AdaptiveClip):
    """Adaptive clipping of given parameters, without a model."""

    def __init__(
        self, clipping: float, eps: float, exclude: Collection[nn.Parameter], transposed: Mapping[nn.Parameter, int]
    ) -> None:
        super().__init__(clipping, eps, "none")
        self._given = exclude, transposed

    def _excluded(self) -> Iterable[nn.Parameter]:
        return self._given[0]

    def _transposed_groups(self) -> Iterable[tuple[nn.Parameter, int]]:
        return self._given[1].items()


class _Units(NamedTuple):
    """This process' part of a gradient, with the norms of its units and of their weights, shaped to multiply it."""

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
        return _Units(part, *(_own_part(n.expand(gradient.shape), gradient) for n in norms))
    if gradient.layout == torch.sparse_coo:
        weight = weight[_row_indices(gradient)]
    return _Units(part, _unit_norm(part, groups, scale), _unit_norm(part_of(weight), groups))


def _unit_norm(tensor: Tensor, groups: int | None, scale: float | None = None) -> Tensor:
    """Return the 2-norm of each unit, shaped to multiply the tensor."""
    wide = widen(tensor, scale)
    if groups is None:
        return torch.linalg.vector_norm(wide, dim=tuple(range(1, wide.ndim)), keepdim=True)
    by_group = wide.unflatten(0, (groups, -1))  # (groups, in / groups, out / groups, …)
    norm = torch.linalg.vector_norm(by_group, dim=(1, *range(3, by_group.ndim)), keepdim=True)
    return norm.expand(-1, by_group.size(1), *norm.shape[2:]).flatten(0, 1)  # (in, out / groups, 1, …)


def _own_part(whole: Tensor, like: Any) -> Tensor:
    """Return this process' shard of a tensor that every process holds whole."""
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
