"""Overrides as text: their keys, how they are quoted, and the command line that has them. No Hydra."""

from __future__ import annotations

import re
import shlex
from collections.abc import Container, Sequence

PROGRAM = ("python", "-m", "stabletrain")


def key_of(override: str) -> str:
    """Return the key of an override: `model.width` of `+model.width=3`, `model` of `~model`."""
    return override.partition("=")[0].lstrip("+~")


def value_of(override: str) -> str:
    """Return what stands behind the first `=`, "" if there is none."""
    return override.partition("=")[2]


def group_of(override: str) -> str:
    """Return the first part of the key: `model` of `model.width=3`."""
    return key_of(override).partition(".")[0]


def without(overrides: Sequence[str], keys: Container[str]) -> list[str]:
    """Return the overrides whose key is none of `keys`."""
    return [override for override in overrides if key_of(override) not in keys]


def write_override(key: str, value: object) -> str:
    """Return `key=value`, quoted where Hydra's grammar would read the value as something else."""
    text = str(value)
    if re.fullmatch(r"[\w.+\-/:@%]+", text, re.ASCII):
        return f"{key}={text}"
    # in Hydra's grammar a backslash escapes only a quote: it is doubled there and nowhere else
    escaped = re.sub(r'(\\*)("|$)', lambda m: 2 * m[1] + ('\\"' if m[2] else ""), text)
    return f'{key}="{escaped}"'


def command_line(overrides: Sequence[str]) -> str:
    """Return the command that a user would type for these overrides."""
    return shlex.join([*PROGRAM, *overrides])
