"""Which folder a run writes to, and which checkpoint it resumes from."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from stabletrain.app.first_process import is_first_process
from stabletrain.app.launch import Launch, find_launch
from stabletrain.errors import RequestError
from stabletrain.record.checkpoint_files import LAST, checkpoints_of, is_sound
from stabletrain.record.run_folder import RunFolder, folder_of

OUTPUT_DIR_OF_PARENT = "STABLETRAIN_OUTPUT_DIR"  # tells a run's further processes the folder of the first one


def unique_id() -> str:
    """Return a name that sorts by time and is unique even among runs started in the same second."""
    return f"{datetime.now():%Y-%m-%d_%H-%M-%S}-{secrets.token_hex(3)}"


def choose_folder(config: Mapping[str, Any]) -> tuple[RunFolder, Path | None]:
    """Choose the run's folder and find the checkpoint to resume from; nothing is written yet.

    Returns:
        The folder, and the checkpoint to load or None.

    Raises:
        RequestError: The folder already holds a run, or there is nothing to resume.
    """
    inherited = os.environ.get(OUTPUT_DIR_OF_PARENT)
    if inherited and not is_first_process():
        folder = RunFolder(inherited)
        return folder, _checkpoint(config, folder)
    output_dir, resume, launch = config["output_dir"], config["resume"], find_launch()
    if launch is not None and output_dir is None:
        output_dir = _folder_of(launch)
    if resume == "auto" and output_dir is None:
        raise RequestError(
            "resume=auto needs the folder of the run to resume.",
            key="output_dir",
            found="null",
            allowed="the folder of the run to resume",
            closest=_latest_run(),
            command=f"python -m stabletrain resume=auto output_dir={_latest_run() or 'runs/…'}",
        )
    folder = RunFolder(output_dir if output_dir is not None else Path("runs") / unique_id())
    if launch is not None and launch.began(folder.read_summary()) and any(checkpoints_of(folder.checkpoints)):
        return folder, newest_sound(folder)  # restarted by its launcher
    checkpoint = _checkpoint(config, folder)
    if launch is not None and (launch.began(folder.read_summary()) or not is_first_process()):
        return folder, checkpoint  # the first process may already be writing, so it alone checks the folder
    if folder.config.exists() and resume != "auto":
        raise RequestError(
            "The folder already holds a run.",
            key="output_dir",
            found=output_dir,
            allowed="a new or empty folder, or resume=auto to resume that run",
            command=f"python -m stabletrain output_dir={output_dir} resume=auto",
        )
    return folder, checkpoint


def _folder_of(launch: Launch) -> str | None:
    """Return the folder that every process of a launch derives from the launch's name alone."""
    if launch.id is not None:
        return f"runs/{launch.id}"
    if launch.num_nodes * launch.num_local == 1:
        return None
    raise RequestError(
        "The processes on several nodes need a common folder, and this launch has no name to derive one from.",
        key="output_dir",
        found="null, and torchrun without --rdzv-id",
        allowed="torchrun --rdzv-id=NAME, or an output_dir on a disk that all nodes share",
        command="output_dir=runs/NAME",
    )


def make_folder(folder: RunFolder) -> None:
    """Make the run's folder; raise RequestError if it cannot be written to."""
    probe = folder.path / f".{os.getpid()}"
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise unwritable(error, folder.path, "python -m stabletrain output_dir=runs/…") from error


def unwritable(error: OSError, path: Path | str | None, command: str) -> RequestError:
    """Return the error for a folder that cannot be written to, with the command that fixes it."""
    return RequestError(
        f"The folder cannot be written to: {error.strerror or error}.",
        key="output_dir",
        found=path,
        allowed="a folder that you may write to",
        command=command,
    )


def _checkpoint(config: Mapping[str, Any], folder: RunFolder) -> Path | None:
    resume = config["resume"]
    if resume is None:
        return None
    if resume == "auto":
        return newest_sound(folder)
    newest = newest_sound(RunFolder(resume))
    if newest is None:
        raise RequestError(
            "There is no checkpoint to resume from.",
            key="resume",
            found=resume,
            allowed=f"auto, or the folder of a run with checkpoints/{LAST}",
            closest=_latest_run(),
            command=f"python -m stabletrain resume={_latest_run() or 'runs/…'}",
        )
    return newest


def newest_sound(folder: RunFolder) -> Path | None:
    """Return the newest checkpoint of a run that is not damaged; None if it has none at all. Damaged ones are named.

    Raises:
        RequestError: All are damaged.
    """
    damaged = []
    for path in checkpoints_of(folder.checkpoints):
        if is_sound(path):
            if damaged and is_first_process():
                print(f"note   {_damage(damaged)}; resuming from {path}", file=sys.stderr)
            return path
        damaged.append(path)
    if damaged:
        raise RequestError(
            "No checkpoint of the run is whole: their checksums do not match their manifests.",
            key="resume",
            found=", ".join(map(str, damaged)),
            allowed="a checkpoint whose SHA-256 equals the one in the .json file beside it",
            command="python -m stabletrain …, with the same settings in a new output_dir",
        )
    return None


def _damage(paths: Sequence[Path]) -> str:
    verb = "is" if len(paths) == 1 else "are"
    return f"{' and '.join(map(str, paths))} {verb} damaged: the checksum does not match the manifest"


def _latest_run() -> str | None:
    runs = sorted(Path("runs").glob(f"*/checkpoints/{LAST}"))
    return str(runs[-1].parent.parent) if runs else None


def open_run(path: str) -> RunFolder:
    """Return the folder of an existing run, or the log folder in which a callback of stabletrain has recorded one.

    Raises:
        RequestError: The folder holds no run.
    """
    folder = folder_of(path)
    if not folder.is_recorded:
        raise RequestError(
            "There is no run in this folder.",
            key="RUN_DIR",
            found=path,
            allowed="the folder of a run; the log of another tool for `diagnose` alone",
            closest=_latest_run(),
        )
    return folder
