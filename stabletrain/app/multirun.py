"""Sweeps: every combination of comma-separated values, through Hydra's own launchers."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from stabletrain.app.compose import to_composition
from stabletrain.app.overrides import list_groups, parse_override
from stabletrain.app.paths import find_config_dir
from stabletrain.app.schema import register_schema
from stabletrain.errors import RequestError, require_choice


def run_all(overrides: Sequence[str], config_dirs: Sequence[Path] = ()) -> int:
    """Run every job of a sweep; return the worst exit code.

    Raises:
        RequestError: In-process data parallelism in a sweep.
    """
    import hydra

    register_schema()
    codes: list[int] = []
    search = [f"--config-dir={d.absolute()}" for d in config_dirs]

    wrong: list[RequestError] = []
    for override in overrides:
        _check_choices(parse_override(override, overrides), config_dirs)

    def job(config: DictConfig) -> int:
        try:
            codes.append(_run_one(config))
        except RequestError as error:  # Hydra would show it as a traceback
            wrong.append(error)
            codes.append(2)
        return codes[-1]

    before = sys.argv
    sys.argv = [before[0], *overrides, *search, "--multirun"]
    try:
        hydra.main(str(find_config_dir()), "config", version_base="1.3")(job)()
    except SystemExit as error:  # Hydra has said on the screen what it could not compose
        raise RequestError(
            "The sweep cannot be composed.",
            key="-m",
            found=" ".join(overrides),
            allowed="overrides that compose, several values divided by commas",
        ) from error
    finally:
        sys.argv = before
    if wrong:
        raise wrong[0]
    return max(codes, default=1)


def _check_choices(override: Override, config_dirs: Sequence[Path]) -> None:
    """Check each option of a sweep over a group."""
    options = list_groups(config_dirs).get(override.key_or_group)
    if options is None or not override.is_sweep_override():
        return
    for value in str(override.input_line).partition("=")[2].split(","):
        try:
            require_choice(override.key_or_group, value.strip(), options)
        except RequestError as error:
            error.command = f"python -m stabletrain -m {override.key_or_group}={error.closest or options[0]}"
            raise


def _run_one(config: DictConfig) -> int:
    from hydra.core.hydra_config import HydraConfig

    from stabletrain.app.commands import train

    hydra_config = HydraConfig.get()
    whole = config.copy()
    from omegaconf import OmegaConf, open_dict

    with open_dict(whole):
        whole.hydra = OmegaConf.create({"runtime": {"choices": dict(hydra_config.runtime.choices)}})
    overrides = list(hydra_config.overrides.task)
    composition = to_composition(whole, overrides)
    if str(composition.config["trainer"].get("strategy", "")).startswith(("ddp", "fsdp")):
        raise RequestError(
            "A sweep cannot start processes of its own: each would replay the whole sweep.",
            key="trainer",
            found=composition.choices["trainer"],
            allowed="one process per job; several processes launched from outside (torchrun, Slurm)",
            command="python -m stabletrain -m trainer=cpu …",
        )
    return train.run(composition)
