"""From overrides to a configuration, with an answer for every way to get one wrong."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from stabletrain.app.paths import find_config_dir
from stabletrain.app.schema import Settings, check_ranges, register_schema
from stabletrain.errors import RequestError, closest_name, require_choice


@dataclass(frozen=True)
class Composition:
    """A complete configuration.

    Attributes:
        config: Plain, resolved data.
        choices: Chosen option by group.
        overrides: The overrides that led to it.
        source: Hydra's configuration object, where references between settings are not resolved yet.
    """

    config: dict[str, Any]
    choices: dict[str, str]
    overrides: tuple[str, ...]
    source: DictConfig

    def in_folder(self, output_dir: Path) -> Composition:
        """Return the same composition with the run's folder known, for the settings that refer to it."""
        source = self.source.copy()
        source.output_dir = str(output_dir)
        source.choices = self.choices
        return replace(self, config=_resolve(source), source=source)


def compose(overrides: Sequence[str] = (), config_dirs: Sequence[Path] = (), saved: Path | None = None) -> Composition:
    """Compose a configuration.

    Args:
        overrides: Hydra overrides, `key=value`.
        config_dirs: Folders of further options, before our own.
        saved: A run's `config.yaml` to start from, instead of the defaults.

    Raises:
        RequestError: A group, option, key, type or range is wrong; it says which and what would mend it.
    """
    if saved is not None:
        config = compose_saved(saved, overrides, config_dirs)
        return Composition(_resolve(config), dict(config.choices), tuple(overrides), config)
    return to_composition(compose_config(overrides, config_dirs), overrides)


def compose_saved(path: Path, overrides: Sequence[str], config_dirs: Sequence[Path] = ()) -> DictConfig:
    """Read a run's `config.yaml` back and apply overrides: options replace their whole section."""
    if not path.is_file():
        raise RequestError(
            "There is no such configuration.", key="--config", found=path, allowed="the config.yaml of a run"
        )
    groups = list_groups(config_dirs)
    parsed = [parse_override(o, overrides) for o in overrides]
    try:
        config: Any = OmegaConf.merge(OmegaConf.structured(Settings), OmegaConf.load(path), {"output_dir": None})
        for override in parsed:
            check_option(override, groups, overrides)
        chosen = [o for o in parsed if o.key_or_group in groups]
        options = _hydra_compose([_text(o) for o in chosen], config_dirs, overrides)
        for override in chosen:
            config[override.key_or_group] = options[override.key_or_group]
            config.choices[override.key_or_group] = override.value()
        for override in parsed:
            if override not in chosen:
                check_key(override, config, groups, config_dirs, overrides)
                OmegaConf.update(config, override.key_or_group, override.value(), force_add=override.is_add())
    except (OmegaConfBaseException, YAMLError) as error:
        key = getattr(error, "full_key", None) or "--config"
        raise RequestError(f"{path} does not fit: {_first_line(error)}", key=key, found=path) from error
    check_ranges(OmegaConf.to_container(config))  # pyright: ignore[reportArgumentType]
    return config


def compose_config(overrides: Sequence[str], config_dirs: Sequence[Path] = ()) -> DictConfig:
    """Compose Hydra's own configuration object, its `hydra` node included; see `compose`."""
    groups = list_groups(config_dirs)
    parsed = [parse_override(o, overrides) for o in overrides]
    for override in parsed:
        check_option(override, groups, overrides)
    chosen = [o for o in parsed if o.key_or_group in groups]
    known = _hydra_compose([_text(o) for o in chosen], config_dirs, overrides)
    drop_leftovers(known, parsed, groups, config_dirs)
    for override in parsed:
        if override not in chosen:
            check_key(override, known, groups, config_dirs, overrides)
    config = _hydra_compose(list(overrides), config_dirs, overrides)
    drop_leftovers(config, parsed, groups, config_dirs)
    return config


def drop_leftovers(
    config: DictConfig, parsed: Sequence[Override], groups: dict[str, list[str]], config_dirs: Sequence[Path]
) -> None:
    """Take an experiment's numbers out of a group for which the user chose an option that has no such setting.

    Hydra merges both: `experiment=exploding_time init=he` would keep the experiment's `init.std`, which `he` lacks.
    """
    chosen = {o.key_or_group: _text(o) for o in parsed if o.key_or_group in groups}
    if chosen.pop("experiment", None) is None or not chosen:
        return
    alone = _hydra_compose(list(chosen.values()), config_dirs, list(chosen.values()))
    added = {o.key_or_group.partition(".")[2] for o in parsed if o.is_add()}
    with open_dict(config):
        for group in chosen.keys() & config.keys():
            for name in set(config[group]) - set(alone[group]) - added:
                del config[group][name]


def to_composition(config: DictConfig, overrides: Sequence[str] = ()) -> Composition:
    """Resolve a composed configuration and check the ranges of its typed part."""
    choices = {k: v for k, v in config.hydra.runtime.choices.items() if v is not None and "/" not in k}
    with open_dict(config):
        config = config.copy()
        del config["hydra"]
    plain = _resolve(config)
    choices.pop("settings", None)
    check_ranges(plain)
    return Composition(plain, {k: str(v) for k, v in choices.items()}, tuple(overrides), config)


def _resolve(config: DictConfig) -> dict[str, Any]:
    try:
        plain: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or None
        raise RequestError(f"The configuration is incomplete: {_first_line(error)}", key=key) from error
    return plain


def list_groups(config_dirs: Sequence[Path] = ()) -> dict[str, list[str]]:
    """Return the options of each group, sorted, over our own and all given folders.

    Raises:
        RequestError: A given folder does not exist.
    """
    groups: dict[str, set[str]] = {}
    for folder in [*config_dirs, find_config_dir()]:
        if not folder.is_dir():
            raise RequestError(
                "The configuration folder does not exist.",
                key="--config-dir",
                found=folder,
                allowed="an existing folder",
            )
        for path in folder.glob("*/*.yaml"):
            groups.setdefault(path.parent.name, set()).add(path.stem)
    return {group: sorted(options) for group, options in sorted(groups.items())}


def parse_override(text: str, overrides: Sequence[str]) -> Override:
    """Parse one override; raise RequestError if it cannot be read."""
    try:
        return OverridesParser.create().parse_override(text)
    except (HydraException, OmegaConfBaseException) as error:
        guess = f"{text}=…" if "=" not in text else None
        raise RequestError(
            f"{text!r} cannot be read as an override.",
            key=text.partition("=")[0],
            found=text,
            allowed="key=value; quote a value with special characters: 'key=\"a b\"'",
            closest=guess,
            command="python -m stabletrain --help",
        ) from error


def check_option(override: Override, groups: dict[str, list[str]], overrides: Sequence[str]) -> None:
    """Check the option of a group override, and that it does not ask for a sweep."""
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
        mended = error.closest or options[0]
        error.command = replaced(overrides, override, f"{group}={mended}")
        raise


def check_key(
    override: Override,
    known: DictConfig,
    groups: dict[str, list[str]],
    config_dirs: Sequence[Path],
    overrides: Sequence[str],
) -> None:
    """Check that the key of a value override exists in the chosen composition.

    `+` adds a key on purpose; that is for sections with a `_target_`, which are bound to its signature later.
    """
    key = override.key_or_group
    keys = set(_keys(known))
    section, _, rest = key.partition(".")
    is_open = (rest and "_target_" in (known.get(section) or {})) or section in ("logger", "hydra")
    if key in keys or section.split("/")[0] == "hydra" or (override.is_add() and is_open):
        return
    value = (override.input_line or "").partition("=")[2]
    siblings = sorted(k for k in keys if k.rpartition(".")[0] == _deepest_known(key, keys) and "_target_" not in k)
    holder = _option_with(section, rest, groups, config_dirs)
    alike = [k for k in [*keys, *groups] if k.count(".") == key.count(".") and not k.startswith("hydra")]
    closest = holder or closest_name(key, alike, 0.6)
    mended = [holder, *_without_choice(overrides, section)] if holder else list(overrides)
    replacement = f"{key if holder else closest}={value}"
    raise RequestError(
        f"There is no setting {key!r} in this composition.",
        key=key,
        found=override.input_line,
        allowed=", ".join(k for k in siblings if k not in ("hydra", "choices"))
        or f"nothing: {section} has no settings here",
        closest=closest,
        command=replaced(mended, override, replacement) if closest else "python -m stabletrain --cfg job",
    )


def _option_with(group: str, setting: str, groups: dict[str, list[str]], config_dirs: Sequence[Path]) -> str | None:
    """Return `group=option` for the option of a group that has the setting, the one most like it if several have."""
    holders = []
    for option in groups.get(group, []) if setting else []:
        paths = [folder / group / f"{option}.yaml" for folder in [*config_dirs, find_config_dir()]]
        text = next((p.read_text() for p in paths if p.is_file()), "")
        if re.search(rf"^{re.escape(setting)}:", text, re.MULTILINE):
            holders.append(option)
    option = closest_name(setting, holders, 0.0)
    return f"{group}={option}" if option else None


def _without_choice(overrides: Sequence[str], group: str) -> list[str]:
    return [o for o in overrides if o.partition("=")[0] != group]


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


def _hydra_compose(chosen: list[str], config_dirs: Sequence[Path], overrides: Sequence[str]) -> DictConfig:
    register_schema()
    path = ",".join(f"file://{d.absolute()}" for d in config_dirs)
    search = [f"hydra.searchpath=[{path}]"] if config_dirs else []
    try:
        with initialize_config_dir(str(find_config_dir()), version_base="1.3", job_name="stabletrain"):
            return hydra_compose("config", [*chosen, *search], return_hydra_config=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise _explain(error, overrides) from error


def _explain(error: Exception, overrides: Sequence[str]) -> RequestError:
    """Turn what Hydra says of a value that does not fit into a request error."""
    match = re.search(r"Error merging override (.+)", str(error))
    if match and error.__cause__ is not None:
        key, _, value = match.group(1).strip().lstrip("+~").partition("=")
        reason = _first_line(error.__cause__)
        return RequestError(
            f"{key} does not take this value: {reason}",
            key=key,
            found=value,
            allowed=_allowed(reason),
        )
    return RequestError(_first_line(error), command="python -m stabletrain --help")


def _allowed(reason: str) -> str:
    words = {
        "converted to Integer": "an integer",
        "converted to Float": "a number",
        "not a valid bool": "true or false",
        "not a ListConfig": "a list: [a,b]",
        "is not Optional": "a value, not null",
    }
    return next((text for sign, text in words.items() if sign in reason), "a value of the setting's type")


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0]


def _text(override: Override) -> str:
    assert override.input_line is not None
    return override.input_line


def command_line(overrides: Sequence[str]) -> str:
    """Return the command that a user would type for these overrides."""
    return shlex.join(["python", "-m", "stabletrain", *overrides])


def replaced(overrides: Sequence[str], override: Override, by: str) -> str:
    """Return the command with one override replaced."""
    return command_line([by if o == override.input_line else o for o in overrides])
