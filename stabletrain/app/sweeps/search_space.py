"""The space of a search: parameters, nested as in the configuration, each with its choices or its range."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stabletrain.app.composition.compose import compose
from stabletrain.app.composition.override_text import write_override
from stabletrain.errors import RequestError, closest_name

FIELDS = ("choices", "low", "high", "step", "log")


@dataclass(frozen=True)
class Parameter:
    """One parameter of a search: choices, or a range.

    Args:
        key: The override's key, such as `clip.max_norm`, or a group.
        choices: Values to choose from; () for a range.
        low: Lower end of the range, included. If `low` and `high` are integers, only integers are sampled.
        high: Upper end of the range, included.
        step: Spacing of the values in the range; None for any value.
        log: Whether to sample uniformly in the logarithm.
    """

    key: str
    choices: tuple[Any, ...] = ()
    low: float | None = None
    high: float | None = None
    step: float | None = None
    log: bool = False

    def suggest(self, trial: Any) -> Any:
        """Return the value that Optuna's sampler suggests."""
        if self.choices:
            return trial.suggest_categorical(self.key, self.choices)
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(self.key, self.low, self.high, step=self.step or 1, log=self.log)
        return trial.suggest_float(self.key, self.low, self.high, step=self.step, log=self.log)

    def corners(self) -> tuple[Any, ...]:
        """Return every choice, or both ends of the range."""
        return self.choices or (self.low, self.high)


def read_space(parameters: Mapping[str, Any]) -> list[Parameter]:
    """Return the parameters of a search, checked.

    Raises:
        RequestError: There are none, or the choices or the range of one cannot be sampled.
    """
    found = [_parameter(key, fields) for key, fields in _leaves(parameters)]
    if not found:
        raise RequestError(
            "The search has no parameters.",
            key="search.parameters",
            found="{}",
            allowed="a parameter with choices, or with low and high",
            command="python -m stabletrain search=lr",
        )
    return found


def check_space(space: Sequence[Parameter], overrides: Sequence[str], config_dirs: Sequence[Path] = ()) -> None:
    """Compose with every choice and both ends of every range, so that an invalid space is refused before training.

    Raises:
        RequestError: One of them does not compose; `key` is the parameter's.
    """
    for parameter in space:
        for value in parameter.corners():
            try:
                compose([*overrides, write_override(parameter.key, value)], config_dirs)
            except RequestError as error:
                error.problem = f"The search cannot try {parameter.key}={value}: {error.problem}"
                error.command = "python -m stabletrain --help" if error.closest is None else error.command
                raise


def _leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, child in node.items():
        key = f"{prefix}{name}"
        if isinstance(child, Mapping) and (set(child) & set(FIELDS) or not child):
            yield key, child
        elif isinstance(child, Mapping):
            yield from _leaves(child, f"{key}.")
        else:
            _refuse(
                key,
                f"{name}: {child}",
                "choices: […], or low and high",
                "A search parameter is a section.",
            )


def _parameter(key: str, fields: Mapping[str, Any]) -> Parameter:
    if unknown := [name for name in fields if name not in FIELDS]:
        error_key = f"search.parameters.{key}.{unknown[0]}"
        raise RequestError(
            "A parameter of a search has no such field.",
            key=error_key,
            found=fields[unknown[0]],
            allowed=", ".join(FIELDS),
            closest=closest_name(unknown[0], FIELDS),
            command="python -m stabletrain search=lr",
        )
    if "choices" in fields:
        return _choices(key, fields)
    low, high, step, log = (fields.get(name) for name in ("low", "high", "step", "log"))
    for name, value in (("low", low), ("high", high), *((("step", step),) if step is not None else ())):
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            _refuse(f"{key}.{name}", "nothing" if value is None else value, "a finite number", f"{key} needs a number.")
    assert isinstance(low, int | float)
    assert isinstance(high, int | float)
    if low > high:
        _refuse(f"{key}.low", low, f"at most high, {high}", "The range is empty.")
    if log and low <= 0:
        _refuse(f"{key}.low", low, "above 0", "A logarithmic range starts above 0.")
    if step is not None and (log or step <= 0):
        _refuse(f"{key}.step", step, "above 0, and null with log: true", "The step is not valid for this range.")
    return Parameter(key, low=low, high=high, step=step, log=bool(log))


def _choices(key: str, fields: Mapping[str, Any]) -> Parameter:
    choices = fields["choices"]
    if not isinstance(choices, list) or not choices or any(isinstance(c, list | dict) for c in choices):
        _refuse(f"{key}.choices", choices, "a list of at least one value", "There is nothing to choose from.")
    if len(fields) > 1:
        _refuse(key, ", ".join(fields), "choices, or low and high", "A parameter has either choices or a range.")
    return Parameter(key, choices=tuple(choices))


def _refuse(key: str, found: Any, allowed: str, problem: str) -> None:
    raise RequestError(
        problem,
        key=f"search.parameters.{key}",
        found=found,
        allowed=allowed,
        command="python -m stabletrain --cfg job search=lr",
    )
