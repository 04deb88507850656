"""Ready-to-copy commands: the run again, with one thing changed."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

PROGRAM = "python -m stabletrain"
OWN = ("output_dir", "run_name", "resume")  # belong to the one run, and would make its rerun write into it

EVERYWHERE = ("model.depth", "model.width", "optimizer.lr", "data.batch_size")  # each option of the group has it


def rerun_command(info: Mapping[str, Any], override: str) -> str:
    """Return the command that repeats the run with `override` in place of what it said on the same key.

    With another option of a group go the settings of the old one (`init.std` of `init=normal`), which it may not have.

    Args:
        info: What the run is (`Record.info`); without a command in it, the chosen options are named.
        override: A command-line override.
    """
    changed = _key(override)
    kept = [word for word in original_words(info) if "=" not in word or not _gives_way(_key(word), changed)]
    return " ".join([PROGRAM, *map(shlex.quote, [*kept, override])])


def _gives_way(key: str, changed: str) -> bool:
    return key in (changed, *OWN) or (key.startswith(f"{changed}.") and key not in EVERYWHERE)


def original_words(info: Mapping[str, Any]) -> list[str]:
    """Return what followed the program's name on the command line, or one word per chosen option."""
    words = _words(info.get("command"))
    for place, word in enumerate(words):
        if word.replace("\\", "/").removesuffix("/__main__.py").rsplit("/", 1)[-1] in (
            "stabletrain",
            "stabletrain.exe",
        ):
            words = words[place + 1 :]
            break
    if words and not {"-m", "--multirun"} & set(words):  # a sweep's command says more than the one run
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
