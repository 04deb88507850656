"""Complete an error message: the closest valid name, and the command that fixes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from stabletrain.app.composition.override_text import PROGRAM, command_line, key_of, without, write_override
from stabletrain.errors import RequestError

PREFIX = f"{' '.join(PROGRAM)} "
HELP = f"{PREFIX}--help"


def _as_it_is(fix: str, overrides: Sequence[str]) -> str:
    return fix


def _drop_keys(fix: str, overrides: Sequence[str]) -> str:
    """Drop the keys that `~key ~key` names: typed overrides are left out, others are deleted with `~`."""
    keys = [key_of(word) for word in fix.split()]
    typed = [key_of(override) for override in overrides]
    return command_line([*without(overrides, keys), *(f"~{key}" for key in keys if key not in typed)])


def _put_in(fix: str, overrides: Sequence[str]) -> str:
    """Put an override into the line that was typed, in place of one with the same key."""
    return command_line([*without(overrides, (key_of(fix),)), fix])


# How a proposed fix becomes a whole command line, by its first characters; the first row that matches counts.
COMPLETIONS: tuple[tuple[str, Callable[[str, Sequence[str]], str]], ...] = (
    ("python", _as_it_is),
    ("export", _as_it_is),
    ("MLFLOW", _as_it_is),
    ("stabletrain ", lambda fix, overrides: f"python -m {fix}"),
    ("~", _drop_keys),
    ("", _put_in),
)


def complete(error: RequestError, command: str, overrides: Sequence[str], config_dirs: Sequence[Path] = ()) -> None:
    """Add the command that fixes an error, where the code that raised it could not know the whole line.

    That is the command line that was typed, with the closest name or the default in place of the wrong value.

    Args:
        error: Changed in place.
        command: The command that was run.
        overrides: Its overrides, as they were typed.
        config_dirs: Folders with more options.
    """
    fix = error.command
    if fix is None:
        error.command = _propose(error, command, overrides, config_dirs)
    else:
        complete_fix = next(function for prefix, function in COMPLETIONS if fix.startswith(prefix))
        error.command = complete_fix(fix, overrides)
    if command == "check" and error.command.startswith(PREFIX) and "--" not in error.command:
        error.command = f"{PREFIX}{command} {error.command.removeprefix(PREFIX)}"  # check the fix before training


def _propose(error: RequestError, command: str, overrides: Sequence[str], config_dirs: Sequence[Path]) -> str:
    if error.key in ("command", "RUN_DIR") and error.closest:
        named = [command] if error.key == "RUN_DIR" and command != "train" else []
        return " ".join([*PROGRAM, *named, error.closest])
    default = error.closest or _default(error.key, overrides, config_dirs)
    if not error.key or default is None:
        return HELP
    error.closest = str(default)
    return command_line([*without(overrides, (error.key,)), write_override(error.key, default)])


def _default(key: str | None, overrides: Sequence[str], config_dirs: Sequence[Path]) -> Any:
    """Return the value that `key` has if it is not overridden; None if it has no single value."""
    from stabletrain.app.composition.compose import compose

    try:
        node: Any = compose(without(overrides, (key or "",)), config_dirs).config
        for name in (key or "").split("."):
            node = node[name]
    except (RequestError, KeyError, TypeError, IndexError):
        return None
    return None if isinstance(node, dict | list) else node
