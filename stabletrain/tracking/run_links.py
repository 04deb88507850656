"""The folder that TensorBoard reads: a link to the event files of each run, named after the run."""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from functools import lru_cache
from pathlib import Path

import yaml

from stabletrain.record.run_folder import RunFolder
from stabletrain.record.sweep_folder import SweepFolder

MAX_LENGTH = 200  # bytes of a file's name, of which there may be 255
_NOT_ALLOWED = re.compile(r"[/\\\x00-\x1f\x7f]+")


def link_runs(logdir: Path, shown: Path, only: str | None = None) -> None:
    """Make the links in `shown` those of `names_of_runs`: add new ones, and remove those of deleted or renamed runs.

    TensorBoard names a run after its folder below the one that it reads. And it must not read `logdir` itself: the
    artifacts of the embedded store, with a copy of each run's event files, are in there too.

    Args:
        logdir: The folder that contains the runs and sweeps.
        shown: The folder that TensorBoard reads.
        only: Name of the only run or sweep to show; all if None.
    """
    wanted = {shown / name: events for name, events in names_of_runs(logdir, only).items()}
    for link in [path for path in shown.rglob("*") if path.is_symlink()]:
        if wanted.get(link) != link.readlink():
            link.unlink(missing_ok=True)
            _remove_empty(link.parent, shown)
    for link, events in wanted.items():
        if not link.is_symlink():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(events, target_is_directory=True)


def names_of_runs(logdir: Path, only: str | None = None) -> dict[str, Path]:
    """Return the folder of event files of each run by its name.

    | run | name |
    |---|---|
    | with a `run_name` | `my-run` |
    | with a `run_name` that others have, too | `my-run (2026-11-21_06-24-22-e85a4c)` |
    | without | `2026-11-21_06-24-22-e85a4c`, the name of its folder |
    | third child of a sweep | `2026-11-21_06-24-22-e85a4c/3`, or `2026-11-21_06-24-22-e85a4c/3 my-run` |
    """
    folders = [path for path in sorted(logdir.iterdir()) if only in (None, path.name)] if logdir.is_dir() else []
    names: dict[str, Path] = {}
    runs = [RunFolder(path) for path in folders if (path / "tensorboard").is_dir()]
    own = {run.path.name: _run_name(run) for run in runs}
    count = Counter([name or folder for folder, name in own.items()])
    for run in runs:
        folder, name = run.path.name, own[run.path.name]
        is_shared = name is not None and (count[name] > 1 or name in own)
        names[f"{name} ({folder})" if is_shared else name or folder] = run.events
    for sweep in map(SweepFolder, folders):
        for child in sweep.children() if sweep.exists else []:
            name = _run_name(child)
            names[f"{sweep.path.name}/{child.path.name}" + (f" {name}" if name else "")] = child.events
    return names


def _run_name(run: RunFolder) -> str | None:
    """Return the run's name as a file's name; None if it has none, or if its configuration cannot be read."""
    with contextlib.suppress(OSError, ValueError, yaml.YAMLError):
        return _read_name(run.config, run.config.stat().st_mtime_ns)
    return None


@lru_cache(maxsize=10_000)
def _read_name(config: Path, modified_ns: int) -> str | None:
    """Read the name from a `config.yaml`, again only after it was modified."""
    settings = yaml.load(config.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    name = settings.get("run_name") if isinstance(settings, dict) else None
    return clean_name(str(name)) if name is not None else None


def clean_name(name: str) -> str | None:
    """Return a name as that of a file: without slashes, and not hidden; None if nothing is left."""
    cleaned = _NOT_ALLOWED.sub("_", name.strip()).lstrip(".")
    return cleaned.encode()[:MAX_LENGTH].decode(errors="ignore").strip() or None


def _remove_empty(folder: Path, top: Path) -> None:
    """Remove the folder of a sweep without links."""
    with contextlib.suppress(OSError):
        if folder != top:
            folder.rmdir()
