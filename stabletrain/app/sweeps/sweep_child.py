"""One child of a sweep: a run like any other, whose end is noted beside it and stops none of the others."""

from __future__ import annotations

import os
import socket
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from stabletrain.app.composition.compose import Composition, compose
from stabletrain.app.composition.overrides import command_line, write_override
from stabletrain.errors import RequestError
from stabletrain.record.sweep_folder import SweepFolder, sweep_of

REFUSED, FAILED, TERMINATED = 2, 1, 143
ERROR_FIELDS = ("problem", "key", "found", "allowed", "closest", "command")


def run_child(
    sweep: SweepFolder,
    number: int,
    overrides: Sequence[str],
    config_dirs: Sequence[Path] = (),
    train: Callable[[Composition], int] | None = None,
) -> dict[str, Any]:
    """Train one child and return how it ended, which is also left in the sweep's folder.

    A child that is started again, by a scheduler say, goes on from its last checkpoint.

    Args:
        sweep: The sweep.
        number: The child's number, and the name of its folder.
        overrides: What it is made of.
        config_dirs: Folders of further options.
        train: What trains it; the command `train` by default.
    """
    if _was_asked_to_stop(sweep):
        outcome = outcome_of(sweep, number, overrides) | {"exit_code": TERMINATED, "seconds": None}
        return _noted(sweep, outcome)
    started, error = time.monotonic(), {}
    try:
        code = (train or _train)(compose([*overrides, *_placed(sweep, number, overrides)], config_dirs))
    except RequestError as problem:
        code, error = REFUSED, {name: getattr(problem, name) for name in ERROR_FIELDS}
    except Exception as problem:
        traceback.print_exc()
        code, error = FAILED, {"problem": str(problem).strip().partition("\n")[0] or type(problem).__name__}
    seconds = round(time.monotonic() - started, 3)
    outcome = outcome_of(sweep, number, overrides) | {"exit_code": code, "error": error, "seconds": seconds}
    return _noted(sweep, outcome)


def _noted(sweep: SweepFolder, outcome: dict[str, Any]) -> dict[str, Any]:
    outcome |= {"host": socket.gethostname(), "pid": os.getpid()}
    sweep.write_outcome(outcome)
    return outcome


def _was_asked_to_stop(sweep: SweepFolder) -> bool:
    """Whether SIGTERM reached an earlier child in this very process: it was meant for all that would follow."""
    here = (TERMINATED, socket.gethostname(), os.getpid())
    return any((o["exit_code"], o.get("host"), o.get("pid")) == here for o in sweep.read_outcomes())


def _train(composition: Composition) -> int:
    from stabletrain.app.commands import train

    return train.run(composition)


def _placed(sweep: SweepFolder, number: int, overrides: Sequence[str]) -> list[str]:
    folder = write_override("output_dir", sweep.child(number).path)
    given = {o.partition("=")[0].lstrip("+") for o in overrides}
    return [folder] if "resume" in given else [folder, "resume=auto"]


def outcome_of(sweep: SweepFolder, number: int, overrides: Sequence[str]) -> dict[str, Any]:
    """Return what a child's folder says of it; an empty folder that Hydra made for it goes."""
    folder = sweep.child(number)
    if folder.path.is_dir() and not any(folder.path.iterdir()):
        folder.path.rmdir()
    summary = folder.read_summary()
    return {
        "number": number,
        "overrides": list(overrides),
        "folder": folder.path.name if folder.config.is_file() else None,
        "exit_code": FAILED,
        "status": summary.get("status"),
        "verdict": summary.get("verdict"),
        "metrics": summary.get("metrics") or {},
        "seconds": summary.get("seconds"),
        "error": {},
    }


def child_info(composition: Composition, run_dir: Path) -> dict[str, Any]:
    """Return what the record of a sweep's child says beside what every record says; of another run nothing."""
    if sweep_of(run_dir) is None:
        return {}
    own = [o for o in composition.overrides if o.partition("=")[0].lstrip("+") not in ("output_dir", "resume")]
    return {"command": command_line(own), "overrides": own}
