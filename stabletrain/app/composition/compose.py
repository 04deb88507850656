"""Compose overrides into a configuration; every mistake is explained by a RequestError."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from stabletrain.app.composition.override_text import key_of, value_of
from stabletrain.app.composition.overrides import (
    add_or_set,
    check_key,
    check_option,
    is_own_setting,
    parse_override,
    text_of,
)
from stabletrain.app.composition.paths import find_config_dir, list_groups
from stabletrain.app.composition.schema import Settings, check_ranges, register_schema
from stabletrain.errors import RequestError


@dataclass(frozen=True)
class Composition:
    """A complete configuration.

    Attributes:
        config: Plain, resolved data.
        choices: Chosen option by group.
        overrides: The overrides, as they were typed.
        source: Hydra's configuration object, in which interpolations are not resolved yet.
    """

    config: dict[str, Any]
    choices: dict[str, str]
    overrides: tuple[str, ...]
    source: DictConfig

    def in_folder(self, output_dir: Path) -> Composition:
        """Return the composition with the run's folder set, for the settings that refer to it."""
        source = self.source.copy()
        source.output_dir = str(output_dir)
        source.choices = self.choices
        if OmegaConf.select(source, "data.path"):  # absolute, so that a run can be resumed from any folder
            source.data.path = str(Path(source.data.path).absolute())
        return replace(self, config=_resolve(source), source=source)

    def with_values(self, values: Mapping[str, Any]) -> Composition:
        """Return the composition with some settings changed."""
        source = self.source.copy()
        for key, value in values.items():
            OmegaConf.update(source, key, value, force_add=True)
        return replace(self, config=_resolve(source), source=source)


def compose(overrides: Sequence[str] = (), config_dirs: Sequence[Path] = (), saved: Path | None = None) -> Composition:
    """Compose a configuration.

    Args:
        overrides: Hydra overrides, `key=value`.
        config_dirs: Folders with more options, which take precedence over the built-in ones.
        saved: A run's `config.yaml` to start from instead of the defaults.

    Raises:
        RequestError: A group, option, key, type or range is wrong; the error names it and the command that fixes it.
    """
    if saved is not None:
        config = compose_saved(saved, overrides, config_dirs)
        return Composition(_resolve(config), dict(config.choices), tuple(overrides), config)
    return to_composition(compose_config(overrides, config_dirs), overrides)


def compose_saved(path: Path, overrides: Sequence[str], config_dirs: Sequence[Path] = ()) -> DictConfig:
    """Read a run's `config.yaml` and apply overrides; an option replaces its whole section."""
    if not path.is_file():
        raise RequestError(
            "The configuration file does not exist.", key="--config", found=path, allowed="the config.yaml of a run"
        )
    groups = list_groups(config_dirs)
    parsed = [parse_override(o) for o in overrides]
    try:
        config: Any = OmegaConf.merge(OmegaConf.structured(Settings), OmegaConf.load(path), {"output_dir": None})
        for override in parsed:
            check_option(override, groups, overrides)
        chosen = [o for o in parsed if o.key_or_group in groups]
        options = _hydra_compose([text_of(o) for o in chosen], config_dirs)
        for override in chosen:
            config[override.key_or_group] = options[override.key_or_group]
            config.choices[override.key_or_group] = override.value()
        for override in parsed:
            if override not in chosen:
                check_key(override, config, groups, config_dirs, overrides)
                OmegaConf.update(config, override.key_or_group, override.value(), force_add=override.is_add())
    except (OmegaConfBaseException, YAMLError) as error:
        key = getattr(error, "full_key", None) or "--config"
        raise RequestError(f"{path} is not a valid configuration: {_first_line(error)}", key=key, found=path) from error
    check_ranges(OmegaConf.to_container(config))  # pyright: ignore[reportArgumentType]
    return config


def compose_config(overrides: Sequence[str], config_dirs: Sequence[Path] = ()) -> DictConfig:
    """Compose Hydra's own configuration object, its `hydra` node included; see `compose`."""
    groups = list_groups(config_dirs)
    parsed = [parse_override(o) for o in overrides]
    for override in parsed:
        check_option(override, groups, overrides)
    chosen = [o for o in parsed if o.key_or_group in groups]
    known = _hydra_compose([text_of(o) for o in chosen], config_dirs)
    drop_leftovers(known, parsed, groups, config_dirs)
    parsed = [o if o in chosen else parse_override(add_or_set(o, known)) for o in parsed]
    others = [o for o in parsed if o not in chosen]
    for override in others:
        if not is_own_setting(override, known):
            check_key(override, known, groups, config_dirs, overrides)
    if not any(o.is_hydra_override() for o in others):
        _apply(others, known)
        return known
    config = _hydra_compose([text_of(o) for o in parsed], config_dirs)
    drop_leftovers(config, parsed, groups, config_dirs)
    return config


def drop_leftovers(
    config: DictConfig, parsed: Sequence[Override], groups: dict[str, list[str]], config_dirs: Sequence[Path]
) -> None:
    """Remove an experiment's settings from a group whose option the user replaced by one without these settings.

    Hydra merges both: `experiment=exploding_time init=he` would keep the experiment's `init.std`, which `he` lacks.
    """
    chosen = {o.key_or_group: text_of(o) for o in parsed if o.key_or_group in groups}
    if chosen.pop("experiment", None) is None or not chosen:
        return
    alone = _hydra_compose(list(chosen.values()), config_dirs)
    added = {o.key_or_group.partition(".")[2] for o in parsed if o.is_add()}
    with open_dict(config):
        for group in chosen.keys() & config.keys():
            for name in set(config[group]) - set(alone[group]) - added:
                del config[group][name]


def to_composition(config: DictConfig, overrides: Sequence[str] = ()) -> Composition:
    """Resolve a composed configuration and check the ranges of its typed sections."""
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
        if key and key.endswith("._target_"):
            group = key.partition(".")[0]
            raise RequestError(
                f"{group}=custom needs the name of your class.",
                key=key,
                found="nothing",
                allowed="the dotted name of a class that can be imported from the current folder",
                command=f"{key}=my.module.Class",
            ) from error
        raise RequestError(f"The configuration is incomplete: {_first_line(error)}", key=key) from error
    return plain


def _hydra_compose(chosen: list[str], config_dirs: Sequence[Path]) -> DictConfig:
    register_schema()
    path = ",".join(f"file://{d.absolute()}" for d in config_dirs)
    search = [f"hydra.searchpath=[{path}]"] if config_dirs else []
    try:
        with initialize_config_dir(str(find_config_dir()), version_base="1.3", job_name="stabletrain"):
            return hydra_compose("config", [*chosen, *search], return_hydra_config=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise _explain(error) from error


def _apply(overrides: Sequence[Override], config: DictConfig) -> None:
    """Set values in a composed configuration in place, as Hydra does as its last step: composing again is slow.

    Hydra has no public function for it; checked on hydra-core 1.3.8.
    """
    try:
        ConfigLoaderImpl._apply_overrides_to_config(list(overrides), config)
    except (HydraException, OmegaConfBaseException) as error:
        raise _explain(error) from error


def _explain(error: Exception) -> RequestError:
    """Turn Hydra's error about a value into a RequestError."""
    match = re.search(r"Error merging override (.+)", str(error))
    if match and error.__cause__ is not None:
        key, value = key_of(match.group(1).strip()), value_of(match.group(1).strip())
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
    return next((text for phrase, text in words.items() if phrase in reason), "a value of the setting's type")


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0]
