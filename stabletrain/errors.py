"""Errors for wrong requests: which key, what was found, what is allowed, the closest name, and the fix."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any


class RequestError(ValueError):
    """The request is wrong: a bad configuration or input (exit code 2 on the command line).

    Packages below `app` name the parameter alone (`width`); `app` prepends the group (`model.width`) and adds the
    command that fixes the mistake.

    Args:
        problem: What is wrong, in one sentence.
        key: The setting at fault, as the user writes it.
        found: The value found.
        allowed: What would be accepted, in words.
        closest: The valid name closest to the one found.
        command: A command line that fixes it.
    """

    def __init__(
        self,
        problem: str,
        *,
        key: str | None = None,
        found: Any = None,
        allowed: str | None = None,
        closest: str | None = None,
        command: str | None = None,
    ) -> None:
        super().__init__(problem)
        self.problem = problem
        self.key = key
        self.found = found
        self.allowed = allowed
        self.closest = closest
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self.problem, {name: getattr(self, name) for name in _FIELDS})

    def __str__(self) -> str:
        lines = [self.problem]
        labelled = [
            ("key", self.key),
            ("found", None if self.found is None else _show(self.found)),
            ("allowed", self.allowed),
            ("closest", self.closest),
            ("fix", self.command),
        ]
        lines += [f"  {label:<8} {text}" for label, text in labelled if text]
        return "\n".join(lines)


def _show(found: Any) -> str:
    try:
        return str(found) or repr(found)
    except ValueError:  # Python refuses to print an integer of more than 4300 digits
        return f"a number of {found.bit_length()} bits" if isinstance(found, int) else type(found).__name__


_FIELDS = ("key", "found", "allowed", "closest", "command")


def _rebuild(problem: str, fields: dict[str, Any]) -> RequestError:
    return RequestError(problem, **fields)


def closest_name(name: str, names: Iterable[str], cutoff: float = 0.5) -> str | None:
    """Return the member of `names` most similar to `name`, or None if none is similar."""
    by_lower = {str(n).lower(): str(n) for n in names}
    matches = difflib.get_close_matches(str(name).lower(), by_lower, n=1, cutoff=cutoff)
    return by_lower[matches[0]] if matches else None


def require_choice(key: str, value: str, choices: Iterable[str]) -> str:
    """Return `value` if it is one of `choices`.

    Raises:
        RequestError: It is not one of them; the error names the closest.
    """
    choices = list(choices)
    if value in choices:
        return value
    raise RequestError(
        f"{key} has no option {value!r}.",
        key=key,
        found=value,
        allowed=", ".join(choices),
        closest=closest_name(value, choices),
    )


def require_range(
    key: str,
    value: Any,
    minimum: float | None = None,
    maximum: float | None = None,
    *,
    open_minimum: bool = False,
    open_maximum: bool = False,
) -> Any:
    """Return `value` if it is between `minimum` and `maximum` (inclusive unless open).

    Raises:
        RequestError: The value is outside the range, or not a finite number.
    """
    is_number = isinstance(value, Real) and not isinstance(value, bool)  # including NumPy scalars
    if is_number and _lies_between(value, minimum, maximum, open_minimum, open_maximum):
        return value
    parts = []
    if minimum is not None:
        parts.append(f"{'above' if open_minimum else 'from'} {minimum}")
    if maximum is not None:
        parts.append(f"{'below' if open_maximum else 'up to'} {maximum}")
    whole = isinstance(value, Integral) and all(isinstance(end, int | None) for end in (minimum, maximum))
    allowed = " ".join(["an integer" if whole else "a number", *parts]) if parts else "a finite number"
    problem = f"{key} is out of range." if is_number else f"{key} is not a number."
    raise RequestError(problem, key=key, found="null" if value is None else value, allowed=allowed)


def _lies_between(
    value: Any, minimum: float | None, maximum: float | None, open_minimum: bool, open_maximum: bool
) -> bool:
    try:
        if not math.isfinite(value):
            return False
    except OverflowError:  # an integer beyond the range of float
        return False
    too_low = minimum is not None and (value <= minimum if open_minimum else value < minimum)
    too_high = maximum is not None and (value >= maximum if open_maximum else value > maximum)
    return not too_low and not too_high


def require_count(key: str, value: Any) -> int:
    """Return `value` if it is an integer of at least 1; raise RequestError otherwise."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise RequestError(f"{key} is not an integer.", key=key, found=value, allowed="an integer from 1")
    return require_range(key, value, 1)
