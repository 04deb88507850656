"""Limits on gradients: pure functions that change `.grad` in place, and a class for each option of `conf/clip/`.

All return the 2-norm of all gradients before (`clip_by_norm_`: the norm it limits). All leave every gradient
as it is if any of them is not finite, in which case the norm returned is not finite either: scaling by such a
norm would turn finite gradients into zeros or NaN. To detect this and not to step is up to the training.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from stabletrain.errors import RequestError, require_range
from stabletrain.gradient.norms import total_norm
from stabletrain.gradient.scale import choose_scale, limit_, scale_to_norm_, shaped
from stabletrain.torch_tools.local_shards import gradients_of, part_of, select, tensor_norms


def clip_by_norm_(parameters: Iterable[nn.Parameter], max_norm: float = 1.0, norm_type: float = 2.0) -> Tensor:
    """Global norm: g ← g · min(1, max_norm / (‖g‖ + 1e-6)), ‖g‖ over all gradients together.

    Args:
        parameters: Those whose `.grad` is None are skipped.
        max_norm: Limit, above 0.
        norm_type: p of the norm, above 0; inf for the largest magnitude.

    Returns:
        The norm before.

    References:
        Pascanu et al. 2013, On the Difficulty of Training Recurrent Neural Networks, algorithm 1.
    """
    with_gradient = select(parameters)
    norm = total_norm(gradients_of(with_gradient), norm_type)
    if torch.isfinite(norm):
        scale_to_norm_(with_gradient, max_norm, norm)
    return norm


@torch.no_grad()
def clip_by_value_(parameters: Iterable[nn.Parameter], max_value: float = 1.0) -> Tensor:
    """Each element by itself: g ← clamp(g, −max_value, max_value); the direction may change.

    Args:
        parameters: Those whose `.grad` is None are skipped.
        max_value: Limit, above 0.

    Returns:
        The 2-norm of all gradients before.

    References:
        Mikolov 2012, Statistical Language Models Based on Neural Networks, section 3.2.2.
    """
    gradients = gradients_of(select(parameters))
    norm = total_norm(gradients)
    if torch.isfinite(norm):
        for gradient in gradients:
            limit = min(max_value, torch.finfo(gradient.dtype).max)
            part_of(gradient).clamp_(-limit, limit)
    return norm


def clip_by_layer_(parameters: Iterable[nn.Parameter], max_norm: float = 1.0) -> Tensor:
    """Each tensor by its own 2-norm: g_l ← g_l · min(1, max_norm / ‖g_l‖).

    Args:
        parameters: Those whose `.grad` is None are skipped.
        max_norm: Limit for each tensor, above 0.

    Returns:
        The 2-norm of all gradients before.

    References:
        Keras, `clipnorm` of every optimizer.
    """
    gradients = gradients_of(select(parameters))
    norm = total_norm(gradients)
    if torch.isfinite(norm):
        scale = choose_scale(norm, max_norm)
        parts, norms = [part_of(g) for g in gradients], tensor_norms(gradients, scale=scale)
        limit_(parts, [shaped(n, p) for n, p in zip(norms, parts, strict=True)], max_norm, scale)
    return norm


class Clip(ABC):
    """Changes gradients in place between backward and step."""

    @abstractmethod
    def __call__(self, parameters: Iterable[nn.Parameter]) -> Tensor:
        """Clip the gradients of `parameters` and return their total norm before."""

    def attach(self, model: nn.Module) -> None:  # noqa: B027 (most clips need not know)
        """Hear which model the gradients will be of, once, before the first step."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint must hold: nothing, for a clip that remembers nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a state that `state_dict` returned.

        Raises:
            RequestError: The state is of another clip.
        """
        if state:
            raise RequestError(
                f"{type(self).__name__} has no state to load.", key="clip", found=", ".join(state), allowed="none"
            )


class NoClip(Clip):
    """Changes nothing; measures the norm."""

    def __call__(self, parameters: Iterable[nn.Parameter]) -> Tensor:
        """Return the 2-norm of the gradients."""
        return total_norm(gradients_of(select(parameters)))


class NormClip(Clip):
    """See `clip_by_norm_`.

    Args:
        max_norm: Limit, above 0. 1 as torchtitan and most language models take.
        norm_type: p of the norm, above 0; inf for the largest magnitude.

    Raises:
        RequestError: A number is out of its range.
    """

    def __init__(self, max_norm: float = 1.0, norm_type: float = 2.0) -> None:
        self.max_norm = require_range("max_norm", max_norm, 0.0, open_minimum=True)
        if norm_type != float("inf"):
            require_range("norm_type", norm_type, 0.0, open_minimum=True)
        self.norm_type = norm_type

    def __call__(self, parameters: Iterable[nn.Parameter]) -> Tensor:
        """Clip by the norm of all gradients; return it."""
        return clip_by_norm_(parameters, self.max_norm, self.norm_type)


class ValueClip(Clip):
    """See `clip_by_value_`.

    Args:
        max_value: Limit, above 0. 1 as in Graves 2013, section 3.2 (there ±1 to ±10, on the LSTM's deltas).

    Raises:
        RequestError: `max_value` is not above 0.
    """

    def __init__(self, max_value: float = 1.0) -> None:
        self.max_value = require_range("max_value", max_value, 0.0, open_minimum=True)

    def __call__(self, parameters: Iterable[nn.Parameter]) -> Tensor:
        """Clip each element; return the 2-norm before."""
        return clip_by_value_(parameters, self.max_value)


class LayerClip(Clip):
    """See `clip_by_layer_`.

    Args:
        max_norm: Limit for each tensor, above 0. 1 as in `NormClip`, to compare the two.

    Raises:
        RequestError: `max_norm` is not above 0.
    """

    def __init__(self, max_norm: float = 1.0) -> None:
        self.max_norm = require_range("max_norm", max_norm, 0.0, open_minimum=True)

    def __call__(self, parameters: Iterable[nn.Parameter]) -> Tensor:
        """Clip each tensor by its norm; return the 2-norm of all before."""
        return clip_by_layer_(parameters, self.max_norm)
