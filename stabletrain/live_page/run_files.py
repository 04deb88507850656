"""Find the runs in a folder and read their small files, which may be half written, damaged, or gone in between."""

from __future__ import annotations

import contextlib
import json
import os
import stat
from pathlib import Path
from typing import Any

from stabletrain.record.run_folder import EVENTS, SUMMARY, RunFolder
from stabletrain.vocabulary.finding import Finding

MAX_BYTES = 16 * 2**20  # of a summary or of findings; a larger file is not one of ours


def find_runs(root: Path, only: str | None = None) -> list[str]:
    """Return the runs in a folder and one level below (the children of a sweep) as paths relative to it.

    A link is followed only if it leads to a place within the folder. Paths are plain strings, since with a thousand
    runs, objects take most of the time.

    Args:
        root: The folder, without links in its path.
        only: Name of the one run to look for; None for all.
    """
    top, found = str(root), []
    for name in [only] if only else _folders(top, top):
        path = f"{top}/{name}"
        if _is_run(path, top):
            found.append(name)
        elif not only:
            found += [f"{name}/{inner}" for inner in _folders(path, top) if _is_run(f"{path}/{inner}", top)]
    return [name for name in found if name.isprintable()]  # others, which are not valid UTF-8, have no URL


def read_summary(folder: RunFolder) -> dict[str, Any]:
    """Return the summary of a run; an empty dict if there is none, or if it cannot be read."""
    found = _read_json(folder.summary)
    return found if isinstance(found, dict) else {}


def read_findings(folder: RunFolder) -> list[Finding] | None:
    """Return the findings that the run wrote; None if there are none, or if they cannot be read."""
    found = _read_json(folder.findings)
    if not isinstance(found, list):
        return None
    with contextlib.suppress(TypeError, AssertionError):  # other fields, an unknown kind
        return [Finding(**fields) for fields in found]
    return None


def modified_ns(path: Path | str) -> int:
    """Return when a file or folder was modified; 0 if there is none."""
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0


def _folders(path: str, top: str) -> list[str]:
    """Return the names of the folders in a folder, without hidden ones and links out of `top`."""
    try:
        with os.scandir(path) as entries:
            return [
                entry.name
                for entry in entries
                if not entry.name.startswith(".")
                and entry.is_dir()
                and (not entry.is_symlink() or _is_within(entry.path, top))
            ]
    except OSError:
        return []


def _is_run(path: str, top: str) -> bool:
    """Return whether a folder contains a run, whose events are not a link out of `top`."""
    events = f"{path}/{EVENTS}"
    try:
        mode = os.lstat(events).st_mode
    except OSError:
        return os.path.isfile(f"{path}/{SUMMARY}")
    return stat.S_ISDIR(mode) or (os.path.isdir(events) and _is_within(events, top))


def _is_within(path: str, top: str) -> bool:
    return Path(path).resolve().is_relative_to(top)


def _read_json(path: Path) -> Any:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            return json.loads(file.read(MAX_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
