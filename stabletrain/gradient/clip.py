"""Limits on gradients: a class for each option of `conf/clip/`, and the same as functions that change `.grad` in place.

All return the total 2-norm of the gradients before clipping (`clip_by_norm_`: the norm it limits). If any gradient is
not finite, all gradients are left as they are, and the norm returned is not finite either: scaling by such a norm
would turn finite gradients into zeros or NaN. The training loop must check for this and skip the step.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from stabletrain.errors import require_range
from stabletrain.gradient.device_clip import DeviceClip, Norm
from stabletrain.gradient.scale import EPS, SMALLEST_FACTOR, choose_scale, limit_, scale_, scale_to_norm_, shaped
from stabletrain.torch_tools.local_shards import gradients_of, part_of, tensor_norms


class NoClip(DeviceClip, name="none"):
    """Changes nothing; measures the norm."""

    def limit_(self, parameters: list[nn.Parameter], norm: Norm) -> Tensor | float:
        """Return the norm."""
        return norm.value if norm.host is None else norm.host


class NormClip(DeviceClip, name="norm"):
    """Global norm: g ← g · min(1, max_norm / (‖g‖ + 1e-6)), ‖g‖ over all gradients together.

    Args:
        max_norm: Limit, above 0. 1 as in torchtitan and for most language models.
        norm_type: p of the norm, above 0; inf for the largest magnitude.

    Raises:
        RequestError: A number is out of its range.

    References:
        Pascanu et al. 2013, On the Difficulty of Training Recurrent Neural Networks, algorithm 1.
    """

    def __init__(self, max_norm: float = 1.0, norm_type: float = 2.0) -> None:
        self.max_norm = require_range("max_norm", max_norm, 0.0, open_minimum=True)
        if norm_type != float("inf"):
            require_range("norm_type", norm_type, 0.0, open_minimum=True)
        self.norm_type, self.smallest_limit = norm_type, self.max_norm

    def limit_(self, parameters: list[nn.Parameter], norm: Norm) -> Tensor | float:
        """Scale all gradients by one factor; return the norm after."""
        factor = 1.0 if norm.host is None else min(1.0, self.max_norm / (norm.host + EPS))
        if factor < SMALLEST_FACTOR:
            scale_(parameters, factor)
            after = norm.value * factor
        else:
            after = scale_to_norm_(parameters, self.max_norm, norm.value, norm.applies)
        return after if norm.host is None else norm.host * factor


class ValueClip(DeviceClip, name="value"):
    """Each element on its own: g ← clamp(g, −max_value, max_value); the direction may change.

    Args:
        max_value: Limit, above 0. 1 as in Graves 2013, section 3.2 (there ±1 to ±10, on the LSTM's deltas).

    Raises:
        RequestError: `max_value` is not above 0.

    References:
        Mikolov 2012, Statistical Language Models Based on Neural Networks, section 3.2.2.
    """

    def __init__(self, max_value: float = 1.0) -> None:
        self.max_value = require_range("max_value", max_value, 0.0, open_minimum=True)

    @torch.no_grad()
    def limit_(self, parameters: list[nn.Parameter], norm: Norm) -> None:
        """Clamp every element."""
        bounds: dict[tuple[torch.device, torch.dtype], Tensor] = {}
        for part in map(part_of, gradients_of(parameters)):
            kind = part.device, part.dtype
            if kind not in bounds:
                limit = torch.full((), min(self.max_value, torch.finfo(part.dtype).max), device=kind[0], dtype=kind[1])
                bounds[kind] = torch.where(norm.applies.to(kind[0]), limit, torch.inf)
            part.clamp_max_(bounds[kind]).clamp_min_(-bounds[kind])  # a clamp by two tensors takes five times as long


class LayerClip(DeviceClip, name="layer"):
    """Each tensor by its own 2-norm: g_l ← g_l · min(1, max_norm / ‖g_l‖).

    Args:
        max_norm: Limit for each tensor, above 0. 1 as in `NormClip`, so that the two can be compared.

    Raises:
        RequestError: `max_norm` is not above 0.

    References:
        Keras, `clipnorm` of every optimizer.
    """

    def __init__(self, max_norm: float = 1.0) -> None:
        self.max_norm = require_range("max_norm", max_norm, 0.0, open_minimum=True)
        self.smallest_limit = self.max_norm

    def limit_(self, parameters: list[nn.Parameter], norm: Norm) -> None:
        """Scale each gradient by its own factor."""
        gradients, scale = gradients_of(parameters), choose_scale(norm.host, self.max_norm)
        parts, norms = [part_of(g) for g in gradients], tensor_norms(gradients, scale=scale)
        shapes = [shaped(n, p) for n, p in zip(norms, parts, strict=True)]
        limit_(parts, shapes, self.max_norm, norm.applies, scale)


def clip_by_norm_(parameters: Iterable[nn.Parameter], max_norm: float = 1.0, norm_type: float = 2.0) -> Tensor:
    """Clip by the total norm, see `NormClip`; return that norm before clipping."""
    return NormClip(max_norm, norm_type)(parameters)


def clip_by_value_(parameters: Iterable[nn.Parameter], max_value: float = 1.0) -> Tensor:
    """Clip each element, see `ValueClip`; return the total 2-norm before clipping."""
    return ValueClip(max_value)(parameters)


def clip_by_layer_(parameters: Iterable[nn.Parameter], max_norm: float = 1.0) -> Tensor:
    """Clip each tensor by its norm, see `LayerClip`; return the total 2-norm before clipping."""
    return LayerClip(max_norm)(parameters)
