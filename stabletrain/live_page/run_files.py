"""Find the runs in a folder and read their small files, which may be half written, damaged, or gone in between."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stabletrain.record.run_folder import RunFolder
from stabletrain.vocabulary.finding import Finding

MAX_BYTES = 16 * 2**20  # of a summary or of findings; a larger file is not one of ours


def find_runs(root: Path, only: str | None = None) -> dict[str, RunFolder]:
    """Return the runs in a folder and one level below (the children of a sweep) by their path relative to it.

    A link is followed only if it leads to a place within the folder.

    Args:
        root: The folder, without links in its path.
        only: Name of the one run to look for; None for all.
    """
    found: dict[str, RunFolder] = {}
    for path in [root / only] if only else _folders(root):
        if not _is_within(path, root):
            continue
        if RunFolder(path).exists:
            found[path.name] = RunFolder(path)
        elif not only:
            inner = (p for p in _folders(path) if _is_within(p, root) and RunFolder(p).exists)
            found |= {f"{path.name}/{p.name}": RunFolder(p) for p in inner}
    return {name: folder for name, folder in found.items() if _is_within(folder.events, root) and _is_text(name)}


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


def modified_ns(path: Path) -> int:
    """Return when a file or folder was modified; 0 if there is none."""
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0


def _folders(path: Path) -> Iterator[Path]:
    with contextlib.suppress(OSError), os.scandir(path) as entries:
        yield from (Path(entry.path) for entry in entries if not entry.name.startswith(".") and entry.is_dir())


def _is_within(path: Path, root: Path) -> bool:
    """Return whether a path is within the folder, after following the link that it may be."""
    return not path.is_symlink() or path.resolve().is_relative_to(root)


def _is_text(name: str) -> bool:
    """Return whether a name can be part of a URL; one that is not valid UTF-8 cannot."""
    return name.isprintable()


def _read_json(path: Path) -> Any:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            return json.loads(file.read(MAX_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
