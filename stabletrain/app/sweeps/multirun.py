"""Sweeps: every combination of comma-separated values, through Hydra's own launchers."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from stabletrain.app.composition.compose import Composition
from stabletrain.app.composition.overrides import command_line, list_groups, parse_override, write_override
from stabletrain.app.composition.paths import find_config_dir
from stabletrain.app.composition.schema import Settings, register_schema
from stabletrain.app.launch import find_launch
from stabletrain.app.sweeps.sweep import begin_sweep, conclude_sweep
from stabletrain.app.sweeps.sweep_child import FAILED, run_child
from stabletrain.errors import RequestError, require_choice
from stabletrain.record.sweep_folder import SweepFolder

DEFAULT_EXPERIMENT = Settings().experiment_name


def run_all(overrides: Sequence[str], config_dirs: Sequence[Path] = ()) -> int:
    """Run every job of a sweep; return the worst exit code.

    Raises:
        RequestError: The sweep cannot be composed, many processes would start it, or every child was refused.
    """
    import hydra

    _refuse_launched()
    register_schema()
    for override in overrides:
        _check_choices(parse_override(override, overrides), config_dirs)
    sweep, words = _begin(overrides)

    def job(config: DictConfig) -> int:  # runs in the launcher's processes
        return _run_one(config_dirs)

    before = sys.argv
    search = [f"--config-dir={d.absolute()}" for d in config_dirs]
    sys.argv = [before[0], *words, write_override("hydra.sweep.dir", sweep.path), *search, "--multirun"]
    try:
        hydra.main(str(find_config_dir()), "config", version_base="1.3")(job)()
    except SystemExit as error:  # Hydra has said on the screen what it could not compose, or that a launcher failed
        if not sweep.children() and not sweep.read_outcomes():
            sweep.remove()
            raise RequestError(
                "The sweep cannot be composed.",
                key="-m",
                found=" ".join(overrides),
                allowed="overrides that compose, several values divided by commas",
            ) from error
        return max(conclude_sweep(sweep), FAILED)
    except KeyboardInterrupt:
        conclude_sweep(sweep)
        raise
    finally:
        sys.argv = before
    return conclude_sweep(sweep)


def _begin(overrides: Sequence[str]) -> tuple[SweepFolder, list[str]]:
    """Make the sweep's folder; return it and the overrides of its children."""
    parsed = [parse_override(o, overrides) for o in overrides]
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
    if any(o.key_or_group.partition(".")[0] == "search" for o in parsed):
        raise RequestError(
            "A search is a sweep already, which chooses as it goes.",
            key="search",
            found="-m",
            allowed="a search without -m",
            command=command_line(overrides),
        )
    values = {key: str(override.value()) for key, override in own.items()}
    sweep = begin_sweep(values.get("output_dir"), values.get("experiment_name", DEFAULT_EXPERIMENT))
    return sweep, [str(o.input_line) for o in parsed if o.key_or_group != "output_dir"]


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


def _run_one(config_dirs: Sequence[Path] = ()) -> int:
    """Run the job that Hydra has launched in this process; return its exit code."""
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig

    job, state = HydraConfig.get(), GlobalHydra.get_state()
    sweep, overrides = SweepFolder(job.sweep.dir), list(job.overrides.task)
    GlobalHydra.instance().clear()  # the child is composed as any run is, with its answers to what is wrong
    try:
        return run_child(sweep, int(job.job.num), overrides, config_dirs, _train)["exit_code"]
    finally:
        GlobalHydra.set_state(state)


def _train(composition: Composition) -> int:
    from stabletrain.app.commands import train

    refuse_own_processes(composition)
    return train.run(composition)


def refuse_own_processes(composition: Composition) -> None:
    """Refuse a child that would start processes of its own: each would replay the whole sweep."""
    if find_launch() is not None:  # Slurm has started them
        return
    section = composition.config["trainer"]
    num_processes = section.get("devices")
    many = num_processes if isinstance(num_processes, int) and num_processes > 1 else 2
    if str(section.get("strategy", "")).startswith(("ddp", "fsdp")):
        raise RequestError(
            "A sweep cannot start processes of its own: each would replay the whole sweep.",
            key="trainer",
            found=composition.choices["trainer"],
            allowed="one process per job; several where Slurm starts them (hydra/launcher=submitit_slurm "
            f"hydra.launcher.tasks_per_node={many}); or one run after the other, each behind torchrun "
            f"--nproc-per-node={many}",
            command="python -m stabletrain -m trainer=cpu …",
        )


def _refuse_launched() -> None:
    """Refuse a sweep behind torchrun or srun: every process there would start all of it."""
    launch = find_launch()
    if launch is not None and launch.num_nodes * launch.num_local > 1:
        raise RequestError(
            f"{launch.engine} has started several processes, and each would start the whole sweep.",
            key="-m",
            found=f"{launch.num_nodes * launch.num_local} processes",
            allowed="a sweep from one process, which asks Slurm for those of its children",
            command="python -m stabletrain -m hydra/launcher=submitit_slurm "
            f"hydra.launcher.nodes={launch.num_nodes} hydra.launcher.tasks_per_node={launch.num_local} …",
        )
