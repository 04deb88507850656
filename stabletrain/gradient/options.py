"""The clips by name, as `conf/clip/` names them, and the function that takes a name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from stabletrain.errors import RequestError, require_choice
from stabletrain.gradient.clip_base import CLIPS, Clip
from stabletrain.signatures import require_options

# Clips with a memory, made by `clip_gradients_` from a name; they go with the first parameter they were made for.
_remembered: Any = WeakIdKeyDictionary()


def clip_gradients_(
    parameters: Iterable[nn.Parameter] | nn.Parameter, clip: str | Clip = "norm", **options: Any
) -> Tensor:
    """Clip the gradients of `parameters` in place and return their total norm before.

    `percentile` and `zscore` compare a norm with those before it. Named, they remember the norms of the same
    parameters from call to call, as long as these live; an instance can also be saved and loaded.

    Args:
        parameters: One or many; those whose `.grad` is None are skipped.
        clip: A name of `CLIPS`, or an instance.
        **options: Of the clip named, such as `max_norm`.

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
            "Gradients are clipped by their parameters, not by the module.",
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
    """Return the clip that these parameters were last clipped with, or a new one."""
    clip = chosen(**options)
    plain = all(isinstance(v, int | float | str | None) for v in options.values())  # objects remember for themselves
    if chosen.state_dict is Clip.state_dict or not parameters or not plain:
        return clip
    clips = _remembered.setdefault(parameters[0], {})
    key = (chosen, tuple(sorted(options.items())), tuple(map(id, parameters)))
    return clips.setdefault(key, clip)
