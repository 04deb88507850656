"""Check one override: whether it parses, whether its option or key exists, and if not, what was probably meant."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from stabletrain.app.composition.override_text import command_line, value_of, without
from stabletrain.app.composition.paths import find_config_dir
from stabletrain.errors import RequestError, closest_name, require_choice

OWN = "custom"  # the option of a group for a user-defined class, which has its own settings


def parse_override(text: str) -> Override:
    """Parse one override.

    Raises:
        RequestError: The text is not in Hydra's override grammar.
    """
    try:
        return OverridesParser.create().parse_override(text)
    except (HydraException, OmegaConfBaseException) as error:
        raise RequestError(
            f"{text!r} cannot be read as an override.",
            key=text.partition("=")[0],
            found=text,
            allowed="key=value; quote a value with special characters: 'key=\"a b\"'",
            closest=f"{text}=…" if "=" not in text else None,
            command="python -m stabletrain --help",
        ) from error


def check_option(override: Override, groups: dict[str, list[str]], overrides: Sequence[str]) -> None:
    """Check that a group override names an existing option, and that no override asks for a sweep.

    Raises:
        RequestError: The option does not exist, or several values are given.
    """
    group, value = override.key_or_group, override.value()
    if override.is_sweep_override():
        raise RequestError(
            f"{group} is given several values at once.",
            key=group,
            found=override.input_line,
            allowed="one value, or a sweep with -m",
            command=f"{command_line(overrides)} -m",
        )
    if group not in groups or override.is_delete():
        return
    if value is None and group == "experiment":
        return
    options = groups[group]
    if not isinstance(value, str):
        raise RequestError(
            f"{group} takes the name of an option.",
            key=group,
            found="null" if value is None else value,
            allowed=", ".join(options),
            command=replaced(overrides, override, f"{group}={options[0]}"),
        )
    try:
        require_choice(group, value, options)
    except RequestError as error:
        others = [o for o in overrides if o != override.input_line]
        error.command = (
            replaced(overrides, override, f"{group}={error.closest}") if error.closest else command_line(others)
        )
        raise


def check_key(
    override: Override,
    known: DictConfig,
    groups: dict[str, list[str]],
    config_dirs: Sequence[Path],
    overrides: Sequence[str],
) -> None:
    """Check that the key of a value override exists in the composed configuration.

    `+` adds a new key. Only sections with a `_target_` take one: they are bound to its signature later.

    Raises:
        RequestError: There is no such key; the error proposes the closest one, or the option that has it.
    """
    key = override.key_or_group
    keys = set(_keys(known))
    section, _, rest = key.partition(".")
    is_open = (rest and "_target_" in (known.get(section) or {})) or section in ("logger", "search", "hydra")
    if key in keys or section.split("/")[0] == "hydra" or (override.is_add() and is_open):
        return
    siblings = sorted(k for k in keys if k.rpartition(".")[0] == _deepest_known(key, keys) and "_target_" not in k)
    holder = _option_with(section, rest, groups, config_dirs)
    closest = holder or _closest_key(key, [*keys, *groups])
    corrected = [holder, *without(overrides, (section,))] if holder else list(overrides)
    replacement = f"{key if holder else closest}={value_of(text_of(override))}"
    raise RequestError(
        f"There is no setting {key!r} in this composition.",
        key=key,
        found=override.input_line,
        allowed=", ".join(k for k in siblings if k not in ("hydra", "choices"))
        or f"nothing: {section} has no settings here",
        closest=closest,
        command=replaced(corrected, override, replacement) if closest else "python -m stabletrain --cfg job",
    )


def is_own_setting(override: Override, known: DictConfig) -> bool:
    """Return whether an override sets an argument of a user-defined class: `model=custom model.hidden=64`."""
    section, _, rest = override.key_or_group.partition(".")
    return bool(rest) and OmegaConf.select(known, f"hydra.runtime.choices.{section}") == OWN


def add_or_set(override: Override, known: DictConfig) -> str:
    """Return the override with the `+` that Hydra requires.

    Hydra takes `+` only before a new key, and there requires it: a top-level key that exists loses it, and a new
    setting of a user-defined class gets it.
    """
    text, exists = text_of(override), override.key_or_group in set(_keys(known))
    if override.is_add() and exists and "." not in override.key_or_group:
        return text.lstrip("+")
    if is_own_setting(override, known) and not exists and not override.is_delete():
        return f"++{text.lstrip('+')}"
    return text


def _closest_key(key: str, names: Sequence[str]) -> str | None:
    """Return the closest key: compared by its last part if the section exists, otherwise as a whole."""
    parent, _, name = key.rpartition(".")
    names = [n for n in names if not n.startswith(("hydra", "choices")) and "_target_" not in n]
    siblings = {n.rpartition(".")[2]: n for n in names if n.rpartition(".")[0] == parent}
    if parent and siblings:
        found = closest_name(name, siblings, 0.6)
        return siblings[found] if found else None
    return closest_name(key, [n for n in names if n.count(".") == key.count(".")], 0.6)


def _option_with(group: str, setting: str, groups: dict[str, list[str]], config_dirs: Sequence[Path]) -> str | None:
    """Return `group=option` for an option of the group that has the setting; of several, the closest in name."""
    holders = []
    for option in groups.get(group, []) if setting else []:
        paths = [folder / group / f"{option}.yaml" for folder in [*config_dirs, find_config_dir()]]
        text = next((p.read_text() for p in paths if p.is_file()), "")
        if re.search(rf"^{re.escape(setting)}:", text, re.MULTILINE):
            holders.append(option)
    option = closest_name(setting, holders, 0.0)
    return f"{group}={option}" if option else None


def _deepest_known(key: str, keys: set[str]) -> str:
    parent = key.rpartition(".")[0]
    while parent and parent not in keys:
        parent = parent.rpartition(".")[0]
    return parent


def _keys(node: DictConfig, prefix: str = "") -> Iterator[str]:
    for name in map(str, node):
        key = f"{prefix}{name}"
        yield key
        if not OmegaConf.is_missing(node, name) and not OmegaConf.is_interpolation(node, name):
            child = node._get_node(name)
            if isinstance(child, DictConfig) and not child._is_none():
                yield from _keys(child, f"{key}.")


def text_of(override: Override) -> str:
    """Return the override as it was typed."""
    assert override.input_line is not None
    return override.input_line


def replaced(overrides: Sequence[str], override: Override, by: str) -> str:
    """Return the command line with one override replaced."""
    return command_line([by if o == override.input_line else o for o in overrides])
