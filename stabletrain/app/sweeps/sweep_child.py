"""One child of a sweep: an ordinary run, whose outcome is noted in the sweep's folder and stops no other child."""

from __future__ import annotations

import os
import socket
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from stabletrain.app.composition.compose import Composition, compose
from stabletrain.app.composition.override_text import command_line, key_of, without, write_override
from stabletrain.app.launch import find_launch
from stabletrain.errors import RequestError
from stabletrain.record.sweep_folder import SweepFolder, sweep_of
from stabletrain.vocabulary.statuses import FAILED_CODE, TERMINATED_CODE, WRONG_REQUEST_CODE

ERROR_FIELDS = ("problem", "key", "found", "allowed", "closest", "command")
TrainFunction = Callable[..., int]  # the command `train`: a composition, and `callbacks` by name; returns the exit code


def run_child(
    sweep: SweepFolder,
    number: int,
    overrides: Sequence[str],
    train: TrainFunction,
    config_dirs: Sequence[Path] = (),
) -> dict[str, Any]:
    """Train one child and return its outcome, which is also written to the sweep's folder.

    A child that is started again, by a scheduler for example, resumes from its last checkpoint.

    Args:
        sweep: The sweep.
        number: The child's number, and the name of its folder.
        overrides: The child's overrides.
        train: What trains a composition and returns the exit code.
        config_dirs: Folders with more options.
    """
    if _was_asked_to_stop(sweep):
        outcome = outcome_of(sweep, number, overrides) | {"exit_code": TERMINATED_CODE, "seconds": None}
        return _noted(sweep, outcome)
    started, error = time.monotonic(), {}
    try:
        composition = compose([*overrides, *_placed(sweep, number, overrides)], config_dirs)
        refuse_own_processes(composition)
        code = train(composition)
    except RequestError as problem:
        code, error = WRONG_REQUEST_CODE, {name: getattr(problem, name) for name in ERROR_FIELDS}
    except Exception as problem:
        traceback.print_exc()
        code, error = FAILED_CODE, {"problem": str(problem).strip().partition("\n")[0] or type(problem).__name__}
    seconds = round(time.monotonic() - started, 3)
    outcome = outcome_of(sweep, number, overrides) | {"exit_code": code, "error": error, "seconds": seconds}
    return _noted(sweep, outcome)


def refuse_own_processes(composition: Composition) -> None:
    """Refuse a child that would start further processes: each of them would run the whole sweep again."""
    if find_launch() is not None:  # the launcher has started them
        return
    section = composition.config["trainer"]
    num_processes = section.get("devices")
    many = num_processes if isinstance(num_processes, int) and num_processes > 1 else 2
    if str(section.get("strategy", "")).startswith(("ddp", "fsdp")):
        raise RequestError(
            "A sweep cannot start processes of its own: each would run the whole sweep again.",
            key="trainer",
            found=composition.choices["trainer"],
            allowed="one process per job; several where Slurm starts them (hydra/launcher=submitit_slurm "
            f"hydra.launcher.tasks_per_node={many}); or one run after the other, each started by torchrun "
            f"--nproc-per-node={many}",
            command="python -m stabletrain -m trainer=cpu …",
        )


def _noted(sweep: SweepFolder, outcome: dict[str, Any]) -> dict[str, Any]:
    outcome |= {"host": socket.gethostname(), "pid": os.getpid()}
    sweep.write_outcome(outcome)
    return outcome


def _was_asked_to_stop(sweep: SweepFolder) -> bool:
    """Return whether SIGTERM ended an earlier child of this very process: then the rest of its children stop too."""
    here = (TERMINATED_CODE, socket.gethostname(), os.getpid())
    return any((o["exit_code"], o.get("host"), o.get("pid")) == here for o in sweep.read_outcomes())


def _placed(sweep: SweepFolder, number: int, overrides: Sequence[str]) -> list[str]:
    folder = write_override("output_dir", sweep.child(number).path)
    return [folder] if "resume" in map(key_of, overrides) else [folder, "resume=auto"]


def outcome_of(sweep: SweepFolder, number: int, overrides: Sequence[str]) -> dict[str, Any]:
    """Return the outcome that a child's folder records; an empty folder, made by Hydra, is removed."""
    folder = sweep.child(number)
    if folder.path.is_dir() and not any(folder.path.iterdir()):
        folder.path.rmdir()
    summary = folder.read_summary()
    return {
        "number": number,
        "overrides": list(overrides),
        "folder": folder.path.name if folder.config.is_file() else None,
        "exit_code": FAILED_CODE,
        "status": summary.get("status"),
        "verdict": summary.get("verdict"),
        "metrics": summary.get("metrics") or {},
        "seconds": summary.get("seconds"),
        "error": {},
    }


def child_info(composition: Composition, run_dir: Path) -> dict[str, Any]:
    """Return what a child's record has in place of the sweep's command; nothing for a run outside of a sweep."""
    if sweep_of(run_dir) is None:
        return {}
    own = without(composition.overrides, ("output_dir", "resume"))
    return {"command": command_line(own), "overrides": own}
