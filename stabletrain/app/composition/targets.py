"""Resolve a `_target_`, check its section against its signature, and instantiate it."""

from __future__ import annotations

import inspect
import logging
import math
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from stabletrain.app.composition.schema import GROUPS
from stabletrain.errors import RequestError, closest_name
from stabletrain.signatures import find_unknown


def expected_types(group: str) -> tuple[type, ...]:
    """Return the classes of which a group's `_target_` must be a subclass."""
    import pytorch_lightning as pl
    from pytorch_lightning.loggers.logger import Logger
    from torch import nn, optim
    from torch.utils.data import Dataset

    from stabletrain.data import Data
    from stabletrain.gradient import Clip
    from stabletrain.network import Initialization
    from stabletrain.training import Schedule

    return {
        "model": (nn.Module, pl.LightningModule),
        "activation": (nn.Module,),
        "norm": (nn.Module,),
        "residual": (nn.Module,),
        "init": (Initialization,),
        "clip": (Clip,),
        "optimizer": (optim.Optimizer,),
        "schedule": (Schedule, optim.lr_scheduler.LRScheduler),
        "data": (Data, Dataset, pl.LightningDataModule),
        "trainer": (pl.Trainer,),
        "logger": (Logger,),
    }[group]


def make(section: Mapping[str, Any], key: str, allow_targets: Sequence[str] = ()) -> Callable[..., Any]:
    """Return a factory for a section: its `_target_` with the section's settings bound.

    The target is resolved and its type checked, and the section is bound to its signature, before anything is called.

    Args:
        section: Plain data with `_target_`.
        key: Where the section stands, `model` or `logger.mlflow`.
        allow_targets: Packages whose functions may be targets.

    Raises:
        RequestError: There is no `_target_`, it has the wrong type, or a setting is unknown or of the wrong type.
    """
    if not isinstance(section, Mapping) or "_target_" not in section:
        raise RequestError(
            f"{key} names no class.", key=f"{key}._target_", found=section, allowed="the dotted name of a class"
        )
    group = key.split(".")[0]
    target = resolve_target(section["_target_"], f"{key}._target_", expected_types(group), allow_targets)
    settings = {k: v for k, v in section.items() if not k.startswith("_")}
    _check_nested(settings, key, expected_types(group), allow_targets)
    bind(target, settings, key)
    return partial(call, _instantiate(section, key), key, section)


def resolve_target(name: Any, key: str, expected: tuple[type, ...], allow_targets: Sequence[str]) -> Any:
    """Import the object with a dotted name, and refuse it if its group expects another type."""
    kinds = " or ".join(f"{t.__module__}.{t.__qualname__}" for t in expected)
    target = _locate(name, key, f"the dotted name of a {kinds}")
    if isinstance(target, type) and issubclass(target, expected):
        return target
    allowed = any(str(name).startswith(f"{package}.") for package in allow_targets)
    if allowed and callable(target) and not isinstance(target, type):
        return target
    package = str(name).split(".")[0]
    own_function = inspect.isfunction(target) and package not in sys.stdlib_module_names
    raise RequestError(
        f"{name} is not what {key.rpartition('.')[0]} expects.",
        key=key,
        found=f"{name} ({type(target).__name__})",
        allowed=f"a class that is a {kinds}" + ("; a function of your own with allow_targets" if own_function else ""),
        command=f"python -m stabletrain 'allow_targets=[{package}]' …" if own_function else None,
    )


def _locate(name: Any, key: str, allowed: str) -> Any:
    from hydra.utils import get_object

    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)  # for classes in the current folder, which the console script does not add
    logging.getLogger("hydra.utils").setLevel(logging.CRITICAL)  # it would print the error that is raised below
    try:
        return get_object(name)
    except Exception as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise RequestError(f"{name} cannot be imported: {reason}", key=key, found=name, allowed=allowed) from error


def _check_nested(value: Any, key: str, expected: tuple[type, ...], allow_targets: Sequence[str]) -> None:
    """Check every `_target_` inside a section too, since Hydra would instantiate it."""
    from torch import nn

    if isinstance(value, Mapping):
        if "_target_" in value:
            target = resolve_target(value["_target_"], f"{key}._target_", (*expected, nn.Module), allow_targets)
            bind(target, {k: v for k, v in value.items() if not k.startswith("_")}, key)
        for name, child in value.items():
            _check_nested(child, f"{key}.{name}", expected, allow_targets)
    elif isinstance(value, list):
        for index, child in enumerate(value):
            _check_nested(child, f"{key}.{index}", expected, allow_targets)


def bind(target: Any, settings: Mapping[str, Any], key: str) -> None:
    """Check names and plain types of `settings` against the target's signature."""
    unknown, allowed = find_unknown(target, settings)
    if unknown:
        raise RequestError(
            f"{key} has no setting {unknown[0]!r}.",
            key=f"{key}.{unknown[0]}",
            found=settings[unknown[0]],
            allowed=", ".join(allowed) or "nothing",
            closest=closest_name(unknown[0], allowed, 0.6),
            command=" ".join(f"~{key}.{name}" for name in unknown),  # the chosen option's own settings go
        )
    hints, is_ours = _type_hints(target), target.__module__.startswith("stabletrain.")
    for name, value in settings.items():
        if name in hints:
            _check_type(f"{key}.{name}", value, hints[name], is_ours=is_ours)


def _type_hints(target: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(target.__init__ if isinstance(target, type) else target)
    except Exception:  # forward references that resolve only for a type checker
        return {}


def _check_type(key: str, value: Any, hint: Any, *, is_ours: bool) -> None:
    from pydantic import PydanticUserError, TypeAdapter, ValidationError

    if isinstance(value, float) and math.isnan(value) and not is_ours:  # torch's activations and schedulers accept it
        raise RequestError(f"{key} is not a number.", key=key, found=value, allowed="a number")
    if isinstance(value, Mapping):
        return  # a nested section, which Hydra instantiates
    try:
        adapter = TypeAdapter(hint)
    except PydanticUserError:
        return  # not plain data; torch checks it
    try:
        adapter.validate_python(value, strict=not isinstance(value, list))
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise RequestError(
            f"{key} does not take this value: {reason[0].lower()}{reason[1:]}.",
            key=key,
            found="null" if value is None else value,
            allowed=_type_words(hint),
        ) from error


def _type_words(hint: Any) -> str:
    words = {int: "an integer", float: "a number", bool: "true or false", str: "a text", type(None): "null"}
    if hint in words:
        return words[hint]
    if typing.get_origin(hint) is typing.Literal:
        return ", ".join(map(str, typing.get_args(hint)))
    arguments = typing.get_args(hint)
    if arguments and all(a in words or typing.get_origin(a) is typing.Literal for a in arguments):
        return " or ".join(_type_words(a) for a in arguments)
    return str(hint).replace("typing.", "")


def _instantiate(section: Mapping[str, Any], key: str) -> Callable[..., Any]:
    """Return the target with its settings bound; nested sections are instantiated at once."""
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    try:
        return instantiate(section, _partial_=True, _convert_="all")
    except InstantiationException as error:
        inner = _inner_section(str(error), key)
        cause = error.__cause__
        if isinstance(cause, RequestError):
            cause.key = f"{inner}.{cause.key}" if cause.key else inner
            raise cause from error
        raise RequestError(
            f"{inner} cannot be instantiated: {str(cause or error).strip().splitlines()[0]}",
            key=inner,
            found=section,
            allowed="see its documentation",
        ) from error


def _inner_section(message: str, key: str) -> str:
    """Return the key of the section that Hydra could not instantiate, from the last line of its message."""
    last = message.strip().splitlines()[-1]
    name = last.partition("full_key: ")[2].strip() if "full_key: " in last else ""
    return f"{key}.{name}" if name else key


def call(factory: Callable[..., Any], key: str, section: Mapping[str, Any], *args: Any, **objects: Any) -> Any:
    """Call the factory; an error names the section at fault."""
    try:
        return factory(*args, **objects)
    except RequestError as error:
        if error.key and error.key.partition(".")[0] not in (*GROUPS, key):  # otherwise it already names its section
            error.key = f"{key}.{error.key}"
        raise
    except AssertionError:
        raise  # our own mistake
    except Exception as error:
        settings = ", ".join(f"{key}.{k}={v}" for k, v in section.items() if not k.startswith("_"))
        raise RequestError(
            f"{section['_target_']} does not accept its settings: {str(error) or type(error).__name__}",
            key=key,
            found=settings,
            allowed="see its documentation",
        ) from error
