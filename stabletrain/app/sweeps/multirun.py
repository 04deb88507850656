"""Sweeps: every combination of comma-separated values, through Hydra's launchers."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from stabletrain.app.composition.override_text import command_line, group_of, value_of, write_override
from stabletrain.app.composition.overrides import parse_override, text_of
from stabletrain.app.composition.paths import find_config_dir, list_groups
from stabletrain.app.composition.schema import Settings, register_schema
from stabletrain.app.launch import find_launch
from stabletrain.app.sweeps.sweep import begin_sweep, conclude_sweep
from stabletrain.app.sweeps.sweep_child import TrainFunction, run_child
from stabletrain.errors import RequestError, require_choice
from stabletrain.record.sweep_folder import SweepFolder
from stabletrain.vocabulary.statuses import FAILED_CODE

DEFAULT_EXPERIMENT = Settings().experiment_name


def run_all(overrides: Sequence[str], train: TrainFunction, config_dirs: Sequence[Path] = ()) -> int:
    """Run every job of a sweep; return the worst exit code.

    Args:
        overrides: Overrides, with comma-separated values where the sweep varies them.
        train: What trains a composition and returns the exit code.
        config_dirs: Folders with more options.

    Raises:
        RequestError: The sweep cannot be composed, a launcher would start it many times, or every child was refused.
    """
    import hydra

    _refuse_launched()
    register_schema()
    for override in overrides:
        _check_choices(parse_override(override), config_dirs)
    sweep, words = _begin(overrides)

    def job(config: DictConfig) -> int:  # runs in the launcher's processes
        return _run_one(train, config_dirs)

    before = sys.argv
    search = [f"--config-dir={d.absolute()}" for d in config_dirs]
    sys.argv = [before[0], *words, write_override("hydra.sweep.dir", sweep.path), *search, "--multirun"]
    try:
        hydra.main(str(find_config_dir()), "config", version_base="1.3")(job)()
    except SystemExit as error:  # Hydra has printed what it could not compose, or which launcher failed
        if not sweep.children() and not sweep.read_outcomes():
            sweep.remove()
            raise RequestError(
                "The sweep cannot be composed.",
                key="-m",
                found=" ".join(overrides),
                allowed="overrides that compose, several values separated by commas",
            ) from error
        return max(conclude_sweep(sweep), FAILED_CODE)
    except KeyboardInterrupt:
        conclude_sweep(sweep)
        raise
    finally:
        sys.argv = before
    return conclude_sweep(sweep)


def _begin(overrides: Sequence[str]) -> tuple[SweepFolder, list[str]]:
    """Make the sweep's folder; return it and the overrides of its children."""
    parsed = [parse_override(o) for o in overrides]
    own = {o.key_or_group: o for o in parsed if o.key_or_group in ("output_dir", "experiment_name")}
    for key, override in own.items():
        if override.is_sweep_override():
            raise RequestError(
                f"A sweep has one {key}.",
                key=key,
                found=override.input_line,
                allowed="one value",
                command=f"python -m stabletrain -m {key}=mine …",
            )
    if any(group_of(o) == "search" for o in overrides):
        raise RequestError(
            "A search is a sweep already, which chooses its values one after the other.",
            key="search",
            found="-m",
            allowed="a search without -m",
            command=command_line(overrides),
        )
    values = {key: str(override.value()) for key, override in own.items()}
    sweep = begin_sweep(values.get("output_dir"), values.get("experiment_name", DEFAULT_EXPERIMENT))
    return sweep, [text_of(o) for o in parsed if o.key_or_group != "output_dir"]


def _check_choices(override: Override, config_dirs: Sequence[Path]) -> None:
    """Check every option of a sweep over a group."""
    options = list_groups(config_dirs).get(override.key_or_group)
    if options is None or not override.is_sweep_override():
        return
    for value in value_of(text_of(override)).split(","):
        try:
            require_choice(override.key_or_group, value.strip(), options)
        except RequestError as error:
            error.command = f"python -m stabletrain -m {override.key_or_group}={error.closest or options[0]}"
            raise


def _run_one(train: TrainFunction, config_dirs: Sequence[Path]) -> int:
    """Run the job that Hydra has launched in this process; return its exit code."""
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig

    job, state = HydraConfig.get(), GlobalHydra.get_state()
    sweep, overrides = SweepFolder(job.sweep.dir), list(job.overrides.task)
    GlobalHydra.instance().clear()  # the child is composed as any run is, with our own error messages
    try:
        return run_child(sweep, int(job.job.num), overrides, train, config_dirs)["exit_code"]
    finally:
        GlobalHydra.set_state(state)


def _refuse_launched() -> None:
    """Refuse a sweep under torchrun or srun: each of their processes would start the whole sweep."""
    launch = find_launch()
    if launch is not None and launch.num_nodes * launch.num_local > 1:
        raise RequestError(
            f"{launch.engine} has started several processes, and each would start the whole sweep.",
            key="-m",
            found=f"{launch.num_nodes * launch.num_local} processes",
            allowed="a sweep from one process, which asks Slurm for the processes of its children",
            command="python -m stabletrain -m hydra/launcher=submitit_slurm "
            f"hydra.launcher.nodes={launch.num_nodes} hydra.launcher.tasks_per_node={launch.num_local} …",
        )
