"""Search: Optuna proposes, each trial is a child run of one sweep, the best overrides are printed as one command."""

from __future__ import annotations

import logging
import math
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock
from rich.markup import escape

from stabletrain.app.composition.compose import Composition
from stabletrain.app.composition.overrides import command_line, write_override
from stabletrain.app.console import Console, short_path
from stabletrain.app.sweeps.search_space import Parameter, check_space, read_space
from stabletrain.app.sweeps.sweep import begin_sweep, conclude_sweep
from stabletrain.app.sweeps.sweep_child import REFUSED, TERMINATED, run_child
from stabletrain.errors import RequestError, require_choice, require_range
from stabletrain.record.run_folder import write_json
from stabletrain.record.sweep_folder import SweepFolder

DIRECTIONS = ("minimize", "maximize")
PRUNERS = ("none", "median")
STOPPED = 3  # by the stability policy: as bad as can be, and no crash
_OWN = ("search", "output_dir", "resume")


def run_search(composition: Composition, config_dirs: Sequence[Path] = ()) -> int:
    """Run the trials of a search that are not in its storage yet; return 0 if one of all is worth something.

    Raises:
        RequestError: The search cannot be done as asked, or its every trial was refused. Nothing is left behind then.
    """
    settings, config = composition.config["search"], composition.config
    space = _checked(settings)
    base = [*settings["overrides"], *(o for o in composition.overrides if _group(o) not in _OWN)]
    check_space(space, base, config_dirs)
    sweep = begin_sweep(config["output_dir"], config["experiment_name"])
    try:
        study = open_study(settings, space, base)
    except RequestError:
        sweep.remove()
        raise
    code = 0
    try:
        for _ in range(settings["num_trials"] - len(_ended(study))):
            code = _try_once(study, sweep, settings, space, base, config_dirs)
            if code in (TERMINATED, REFUSED) and (code == TERMINATED or not sweep.children()):
                break  # asked to stop; or refused before anything was trained, as all others would be
    finally:
        worst = _conclude(study, sweep, settings, base)
    return code if code == TERMINATED else worst


def _group(override: str) -> str:
    return override.partition("=")[0].lstrip("+~").partition(".")[0]


def _checked(settings: Mapping[str, Any]) -> list[Parameter]:
    require_range("search.num_trials", settings["num_trials"], 1)
    require_range("search.sampler_seed", settings["sampler_seed"], 0, 2**32 - 1)
    require_choice("search.direction", settings["direction"], DIRECTIONS)
    require_choice("search.pruner", settings["pruner"], PRUNERS)
    return read_space(settings["parameters"])


def open_study(settings: Mapping[str, Any], space: Sequence[Parameter], base: Sequence[str]) -> Any:
    """Return the study: the one in the storage that began with the same space and overrides, or a new one.

    Raises:
        RequestError: Optuna is not installed, or cannot open the storage.
    """
    try:
        import optuna
    except ImportError as error:
        raise RequestError(
            "A search needs Optuna.",
            key="search",
            found="not installed",
            command="python -m pip install 'stabletrain[search]'",
        ) from error
    optuna.logging.set_verbosity(logging.ERROR)
    storage = settings["storage"]
    pruner = optuna.pruners.MedianPruner() if settings["pruner"] == "median" else optuna.pruners.NopPruner()
    identity = repr((settings["metric"], settings["direction"], tuple(space), sorted(base)))
    name = settings["study_name"] or f"stabletrain-{zlib.crc32(identity.encode()):08x}"
    try:
        with _one_at_a_time(storage):
            study = optuna.create_study(
                storage=storage, study_name=name, pruner=pruner, direction=settings["direction"], load_if_exists=True
            )
    except Exception as error:
        raise RequestError(
            f"The search's storage cannot be opened: {str(error).strip().splitlines()[0]}",
            key="search.storage",
            found=storage,
            allowed="null, or a database such as sqlite:///search.db",
            command="python -m stabletrain search=lr search.storage=sqlite:///search.db",
        ) from error
    # what was drawn before is not drawn again when the search goes on
    study.sampler = optuna.samplers.TPESampler(seed=settings["sampler_seed"] + len(study.trials))
    return study


def _one_at_a_time(storage: str | None) -> Any:
    """Let one process at a time set up a new database: of several that do so together only the first survives."""
    import contextlib

    if storage is None or not storage.startswith("sqlite:///"):
        return contextlib.nullcontext()
    return FileLock(f"{Path(storage.removeprefix('sqlite:///')).absolute()}.lock")


def _ended(study: Any) -> list[Any]:
    return [t for t in study.trials if t.state.name in ("COMPLETE", "PRUNED")]


def _try_once(
    study: Any,
    sweep: SweepFolder,
    settings: Mapping[str, Any],
    space: Sequence[Parameter],
    base: Sequence[str],
    config_dirs: Sequence[Path],
) -> int:
    """Train one trial and tell Optuna what it was worth; return its exit code."""
    from optuna.trial import TrialState

    trial = study.ask()
    overrides = [*base, *(_write(p.key, p.suggest(trial)) for p in space)]
    trial.set_user_attr("folder", str(sweep.child(trial.number).path))
    pruning = _pruning(trial, settings)
    outcome = run_child(sweep, trial.number, overrides, config_dirs, lambda c: _train(c, pruning))
    worth = worth_of(outcome, settings["metric"], settings["direction"])
    if pruning is not None and pruning.pruned:
        study.tell(trial, state=TrialState.PRUNED)
    elif worth is None:
        study.tell(trial, state=TrialState.FAIL)
    else:
        study.tell(trial, worth)
    return outcome["exit_code"]


def worth_of(outcome: Mapping[str, Any], metric: str, direction: str) -> float | None:
    """Return what a trial is worth: its metric; the worst there is if it diverged; None if it says nothing."""
    value = outcome["metrics"].get(metric)
    if outcome["exit_code"] == STOPPED or (value is not None and math.isnan(value)):
        return math.inf if direction == "minimize" else -math.inf
    return value if outcome["exit_code"] == 0 else None


def _write(key: str, value: Any) -> str:
    """Return the override; five digits say more than any search knows."""
    return write_override(key, float(f"{value:.5g}") if isinstance(value, float) else value)


def _pruning(trial: Any, settings: Mapping[str, Any]) -> Any:
    if settings["pruner"] == "none":
        return None
    from stabletrain.training.callbacks.pruning import PruneTrial

    return PruneTrial(trial, settings["metric"])


def _train(composition: Composition, pruning: Any) -> int:
    from stabletrain.app.commands import train
    from stabletrain.app.sweeps.multirun import refuse_own_processes

    refuse_own_processes(composition)
    return train.run(composition, callbacks=() if pruning is None else (pruning,))


def _conclude(study: Any, sweep: SweepFolder, settings: Mapping[str, Any], base: Sequence[str]) -> int:
    """Write `search.json`, print table and best command; return 0, or 1 if no trial is worth anything."""
    trials = study.trials
    good = [t for t in trials if t.state.name == "COMPLETE" and math.isfinite(t.value)]
    best = study.best_trial if good else None
    overrides = [*base, *(_write(k, v) for k, v in best.params.items())] if best else []
    if sweep.children() or not sweep.read_outcomes():
        about = {
            "study": study.study_name,
            "storage": settings["storage"],
            "metric": settings["metric"],
            "direction": settings["direction"],
            "best": {"trial": best.number, "value": best.value, "parameters": best.params} if best else None,
            "overrides": overrides,
            "command": command_line(overrides) if best else None,
            "trials": [_trial(t) for t in trials],
        }
        write_json(sweep.path / "search.json", about)
    if sweep.read_outcomes():
        conclude_sweep(sweep, settings["metric"])  # raises if every trial was refused
    console = Console()
    if best is None:
        console.print("[red]No trial is worth anything[/]: all of them diverged or failed.")
        return 1
    ended = f"{len(_ended(study))} of {settings['num_trials']} trials"
    console.print(f"[dim]best[/]   {settings['metric']} {best.value:.5g} in trial {best.number}, of {ended}")
    console.print(f"[dim]files[/]  {escape(short_path(sweep.path / 'search.json'))}")
    console.print(f"       [bold]{escape(command_line(overrides))}[/]")
    return 0


def _trial(trial: Any) -> dict[str, Any]:
    value = trial.value
    diverged = value is not None and not math.isfinite(value)
    return {
        "number": trial.number,
        "state": "diverged" if diverged else trial.state.name.lower(),
        "value": None if diverged else value,
        "parameters": trial.params,
        "folder": trial.user_attrs.get("folder"),
    }
