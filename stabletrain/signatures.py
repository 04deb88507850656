"""Options checked against a signature before anything is called, so that a misspelled name never goes unnoticed."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from stabletrain.errors import RequestError, closest_name


def find_unknown(
    target: Callable[..., Any] | None, options: Iterable[str], exclude: Collection[str] = ()
) -> tuple[list[str], list[str]]:
    """Return which of the options `target` does not take, and the names of those it takes.

    Args:
        target: A class or function; None for something that takes no options.
        options: Names of keyword arguments.
        exclude: Parameters that are not options, because the caller passes them.

    Returns:
        The unknown names, in the order given; none if `target` takes any keyword (`**kwargs`). And the names of its
        parameters.
    """
    parameters = {} if target is None else inspect.signature(target).parameters
    names = [name for name in parameters if name not in exclude]
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return [], names
    return [name for name in options if name not in names], names


def require_options(
    target: Callable[..., Any] | None, options: Mapping[str, Any], owner: str, exclude: Collection[str] = ()
) -> None:
    """Check that `target` takes all of `options`.

    Args:
        target: A class or function; None for something that takes no options.
        options: Keyword arguments for it.
        owner: What the options belong to, for the message: `clip 'norm'`.
        exclude: Parameters that are not options, because the caller passes them.

    Raises:
        RequestError: An option is unknown; the message lists the known ones and the closest.

    Example:
        >>> require_options(dict.fromkeys, {"value": 1}, "fromkeys")
        >>> require_options(None, {"value": 1}, "clip 'none'")
        Traceback (most recent call last):
        stabletrain.errors.RequestError: clip 'none' has no option 'value'.
          key      value
          found    1
          allowed  no options
    """
    unknown, allowed = find_unknown(target, options, exclude)
    if unknown:
        raise RequestError(
            f"{owner} has no option {unknown[0]!r}.",
            key=unknown[0],
            found=options[unknown[0]],
            allowed=", ".join(allowed) or "no options",
            closest=closest_name(unknown[0], allowed),
        )
