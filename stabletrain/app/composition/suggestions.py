"""The last two parts of an error message: the closest name, and the command that mends it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stabletrain.errors import RequestError


def complete(error: RequestError, command: str, overrides: Sequence[str], config_dirs: Sequence[Path] = ()) -> None:
    """Add the command that mends an error, where the one who raised it could not know it.

    That is the command line that was typed, with the closest name or the default in place of the wrong value.
    """
    _complete(error, command, overrides, config_dirs)
    plain, named = "python -m stabletrain ", f"python -m stabletrain {command} "
    if command == "check" and (error.command or "").startswith(plain) and "--" not in (error.command or ""):
        error.command = named + (error.command or "").removeprefix(plain)  # what mends it is checked first too


def _complete(error: RequestError, command: str, overrides: Sequence[str], config_dirs: Sequence[Path]) -> None:
    from stabletrain.app.composition.overrides import command_line, write_override

    prefix = ["python", "-m", "stabletrain"] + ([command] if command != "train" else [])
    if error.command is not None:
        if error.command.startswith("stabletrain "):
            error.command = f"python -m {error.command}"
        elif error.command.startswith("~"):
            names = [word[1:] for word in error.command.split()]
            typed = {o.partition("=")[0].lstrip("+~") for o in overrides}
            kept = [o for o in overrides if o.partition("=")[0].lstrip("+~") not in names]
            error.command = command_line([*kept, *(f"~{name}" for name in names if name not in typed)])
        elif not error.command.startswith(
            ("python", "MLFLOW", "export")
        ):  # a bare override: put it into the line that was typed
            key = error.command.partition("=")[0]
            error.command = command_line([*_without(overrides, key), error.command])
        return
    if error.key in ("command", "RUN_DIR") and error.closest:
        error.command = " ".join([*(prefix if error.key == "RUN_DIR" else prefix[:3]), error.closest])
        return
    default = error.closest or _default(error.key, overrides, config_dirs)
    if default is not None:
        error.closest = error.closest or str(default)
    if error.key and default is not None:
        error.command = command_line([*_without(overrides, error.key), write_override(error.key, default)])
    else:
        error.command = "python -m stabletrain --help"


def _without(overrides: Sequence[str], key: str) -> list[str]:
    return [o for o in overrides if o.partition("=")[0].lstrip("+~") != key]


def _default(key: str | None, overrides: Sequence[str], config_dirs: Sequence[Path]) -> Any:
    """Return the value that `key` would have if it were not overridden, or None."""
    from stabletrain.app.composition.compose import compose

    try:
        node: Any = compose(_without(overrides, key or ""), config_dirs).config
        for name in (key or "").split("."):
            node = node[name]
    except (RequestError, KeyError, TypeError, IndexError):
        return None
    return None if isinstance(node, dict | list) else node
