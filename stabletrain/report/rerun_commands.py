"""Commands that repeat a run with one setting changed, ready to copy."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

PROGRAM = "python -m stabletrain"
OWN = ("output_dir", "run_name", "resume")  # specific to the run: with them, the rerun would write into its folder
EVERYWHERE = ("model.depth", "model.width", "optimizer.lr", "data.batch_size")  # settings of every option of a group


def rerun_command(info: Mapping[str, Any], override: str) -> str:
    """Return the command that repeats the run with `override` in place of its own values of those keys.

    If an override selects another option of a group, the settings of the former option are left out (`init.std` of
    `init=normal`), since the new one may not have them.

    Args:
        info: What the record says about the run (`Record.info`). If it contains no command, the chosen options are
            listed.
        override: One or more command-line overrides, such as `activation=relu init=he`.
    """
    words = _words(override)
    words = words if words and all("=" in word for word in words) else [override]
    changed = [_key(word) for word in words]
    kept = [w for w in original_words(info) if "=" not in w or not any(_is_replaced(_key(w), key) for key in changed)]
    return " ".join([PROGRAM, *map(shlex.quote, [*kept, *words])])


def _is_replaced(key: str, changed: str) -> bool:
    return key in (changed, *OWN) or (key.startswith(f"{changed}.") and key not in EVERYWHERE)


def original_words(info: Mapping[str, Any]) -> list[str]:
    """Return the arguments on the command line, or one argument per chosen option if they are unknown."""
    words = _words(info.get("command"))
    for place, word in enumerate(words):
        if word.replace("\\", "/").removesuffix("/__main__.py").rsplit("/", 1)[-1] in (
            "stabletrain",
            "stabletrain.exe",
        ):
            words = words[place + 1 :]
            break
    if words and not {"-m", "--multirun"} & set(words):  # a sweep's command describes all of its runs
        return words
    choices = info.get("choices")
    return [f"{group}={option}" for group, option in choices.items()] if isinstance(choices, Mapping) else []


def _words(command: Any) -> list[str]:
    if isinstance(command, Sequence) and not isinstance(command, str):
        return [str(word) for word in command]
    try:
        return shlex.split(str(command or ""))
    except ValueError:  # a quote that is not closed
        return []


def _key(override: str) -> str:
    return override.split("=", 1)[0].lstrip("+~").split("@", 1)[0]
