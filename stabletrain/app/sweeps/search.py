"""Search: Optuna proposes values, each trial is a child of one sweep, the best overrides are printed as a command."""

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
from stabletrain.app.composition.override_text import command_line, group_of, write_override
from stabletrain.app.console import Console, short_path
from stabletrain.app.sweeps.search_space import Parameter, check_space, read_space
from stabletrain.app.sweeps.sweep import begin_sweep, conclude_sweep
from stabletrain.app.sweeps.sweep_child import TrainFunction, run_child
from stabletrain.errors import RequestError, require_choice, require_range
from stabletrain.record.run_folder import write_json
from stabletrain.record.sweep_folder import SweepFolder
from stabletrain.vocabulary.statuses import DONE_CODE, FAILED_CODE, STOPPED_CODE, TERMINATED_CODE, WRONG_REQUEST_CODE

DIRECTIONS = ("minimize", "maximize")
PRUNERS = ("none", "median")
_OWN = ("search", "output_dir", "resume")


def run_search(composition: Composition, train: TrainFunction, config_dirs: Sequence[Path] = ()) -> int:
    """Run the trials of a search that are not in its storage yet; return 0 if any trial has a finite value.

    Args:
        composition: The composition, with its `search` section.
        train: What trains a composition and returns the exit code.
        config_dirs: Folders with more options.

    Raises:
        RequestError: The search is not valid, or every trial was refused. Nothing is left behind then.
    """
    settings, config = composition.config["search"], composition.config
    space = _checked(settings)
    base = [*settings["overrides"], *(o for o in composition.overrides if group_of(o) not in _OWN)]
    check_space(space, base, config_dirs)
    sweep = begin_sweep(config["output_dir"], config["experiment_name"])
    try:
        study = open_study(settings, space, base)
    except RequestError:
        sweep.remove()
        raise
    code = DONE_CODE
    try:
        for _ in range(settings["num_trials"] - len(_ended(study))):
            code = _try_once(study, sweep, settings, space, base, train, config_dirs)
            if code == TERMINATED_CODE or (code == WRONG_REQUEST_CODE and not sweep.children()):
                break  # asked to stop; or refused before anything was trained, and so would be all others
    finally:
        worst = _conclude(study, sweep, settings, base)
    return code if code == TERMINATED_CODE else worst


def _checked(settings: Mapping[str, Any]) -> list[Parameter]:
    require_range("search.num_trials", settings["num_trials"], 1)
    require_range("search.sampler_seed", settings["sampler_seed"], 0, 2**32 - 1)
    require_choice("search.direction", settings["direction"], DIRECTIONS)
    require_choice("search.pruner", settings["pruner"], PRUNERS)
    return read_space(settings["parameters"])


def open_study(settings: Mapping[str, Any], space: Sequence[Parameter], base: Sequence[str]) -> Any:
    """Return the study in the storage with the same space and overrides, or a new one.

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
    # a resumed search does not sample the same values again
    study.sampler = optuna.samplers.TPESampler(seed=settings["sampler_seed"] + len(study.trials))
    return study


def _one_at_a_time(storage: str | None) -> Any:
    """Let one process at a time set up a new database: if several do so at once, all but one fail."""
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
    train: TrainFunction,
    config_dirs: Sequence[Path],
) -> int:
    """Train one trial and tell Optuna its value; return its exit code."""
    from optuna.trial import TrialState

    trial = study.ask()
    overrides = [*base, *(_write(p.key, p.suggest(trial)) for p in space)]
    trial.set_user_attr("folder", str(sweep.child(trial.number).path))
    pruning = _pruning(trial, settings)
    callbacks = () if pruning is None else (pruning,)
    outcome = run_child(sweep, trial.number, overrides, lambda c: train(c, callbacks=callbacks), config_dirs)
    worth = worth_of(outcome, settings["metric"], settings["direction"])
    if pruning is not None and pruning.pruned:
        study.tell(trial, state=TrialState.PRUNED)
    elif worth is None:
        study.tell(trial, state=TrialState.FAIL)
    else:
        study.tell(trial, worth)
    return outcome["exit_code"]


def worth_of(outcome: Mapping[str, Any], metric: str, direction: str) -> float | None:
    """Return the value of a trial: its metric; the worst possible value if it diverged; None if it failed."""
    value = outcome["metrics"].get(metric)
    if outcome["exit_code"] == STOPPED_CODE or (value is not None and math.isnan(value)):
        return math.inf if direction == "minimize" else -math.inf
    return value if outcome["exit_code"] == DONE_CODE else None


def _write(key: str, value: Any) -> str:
    """Return the override; five digits are more than any search can resolve."""
    return write_override(key, float(f"{value:.5g}") if isinstance(value, float) else value)


def _pruning(trial: Any, settings: Mapping[str, Any]) -> Any:
    if settings["pruner"] == "none":
        return None
    from stabletrain.training.callbacks.pruning import PruneTrial

    return PruneTrial(trial, settings["metric"])


def _conclude(study: Any, sweep: SweepFolder, settings: Mapping[str, Any], base: Sequence[str]) -> int:
    """Write `search.json`, print the table and the best command; return 0, or 1 if no trial has a finite value."""
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
        console.print("[red]No trial succeeded[/]: all of them diverged or failed.")
        return FAILED_CODE
    ended = f"{len(_ended(study))} of {settings['num_trials']} trials"
    console.print(f"[dim]best[/]   {settings['metric']} {best.value:.5g} in trial {best.number}, of {ended}")
    console.print(f"[dim]files[/]  {escape(short_path(sweep.path / 'search.json'))}")
    console.print(f"       [bold]{escape(command_line(overrides))}[/]")
    return DONE_CODE


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
