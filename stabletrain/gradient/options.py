"""Clipping by name: `clip_gradients_`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from stabletrain.errors import RequestError, require_choice
from stabletrain.gradient.clip_base import CLIPS, Clip
from stabletrain.signatures import require_options

# Stateful clips that `clip_gradients_` made from a name, by the first parameter; they are deleted along with it.
_remembered: Any = WeakIdKeyDictionary()


def clip_gradients_(
    parameters: Iterable[nn.Parameter] | nn.Parameter, clip: str | Clip = "norm", **options: Any
) -> Tensor:
    """Clip the gradients of `parameters` in place and return their total norm before clipping.

    `percentile` and `zscore` compare a norm with those of earlier calls. Given by name, they keep a history for each
    set of parameters and options, as long as the parameters exist; the history of an instance can be saved and loaded.

    Args:
        parameters: One or more parameters; those whose `.grad` is None are skipped.
        clip: A name in `CLIPS`, or an instance.
        **options: Arguments of the named clip, such as `max_norm`.

    Returns:
        The norm, as a scalar tensor. Inf or NaN if a gradient is not finite; then no gradient has been changed.

    Raises:
        RequestError: The name or an option is unknown, a number is out of its range, or a module is given.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(3, 1)
        >>> model(torch.full((4, 3), 10.0)).sum().backward()
        >>> norm = clip_gradients_(model.parameters(), "norm", max_norm=1.0)
        >>> round(float(norm), 2), round(float(model.weight.grad.norm()), 2)
        (69.4, 1.0)
    """
    if isinstance(parameters, nn.Module):
        raise RequestError(
            "Clipping takes parameters, not a module.",
            key="parameters",
            found=type(parameters).__name__,
            allowed="the module's .parameters(), or some of them",
            closest="model.parameters()",
        )
    parameters = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    if isinstance(clip, str):
        chosen = CLIPS[require_choice("clip", clip, CLIPS)]
        require_options(chosen, options, f"clip {clip!r}")
        clip = _recall(chosen, options, parameters)
    else:
        require_options(None, options, f"clip {type(clip).__name__!r}")
    return clip(parameters)


def _recall(chosen: type[Clip], options: dict[str, Any], parameters: list[nn.Parameter]) -> Clip:
    """Return the clip with the history of these parameters, or a new one."""
    clip = chosen(**options)
    plain = all(isinstance(v, int | float | str | None) for v in options.values())  # an object keeps its own history
    if chosen.state_dict is Clip.state_dict or not parameters or not plain:
        return clip
    clips = _remembered.setdefault(parameters[0], {})
    key = (chosen, tuple(sorted(options.items())), tuple(map(id, parameters)))
    return clips.setdefault(key, clip)
