"""The files of a run. Small JSON files are replaced atomically."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from stabletrain.vocabulary.finding import Finding

EVENTS, SUMMARY = "tensorboard", "summary.json"
EVENT_FILES = "events.out.tfevents.*"
_OWN_EVENTS = re.compile(r"events\.out\.tfevents\.\d{10}\.\d+\.")  # seconds with decimals: no other tool writes these


class RunFolder:
    """Paths of a run's files; reads and writes its summary and findings.

    Args:
        path: The run's `output_dir`.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path).absolute()
        self.config = self.path / "config.yaml"
        self.checkpoints = self.path / "checkpoints"
        self.findings = self.path / "findings.json"
        self.summary = self.path / SUMMARY
        self.report = self.path / "report.html"

    @property
    def events(self) -> Path:
        """Folder of the event files: `tensorboard/`, or the folder itself where a callback has written them to it.

        Such are the log folders of Lightning, `lightning_logs/version_0`.
        """
        inside = self.path / EVENTS
        return self.path if not inside.is_dir() and has_own_events(self.path) else inside

    @property
    def is_recorded(self) -> bool:
        """Whether the folder contains the record of a run, and not only event files of another tool."""
        inside = self.path / EVENTS
        is_ours = inside.is_dir() and (has_own_events(inside) or not any(inside.glob(EVENT_FILES)))
        return is_ours or has_own_events(self.path)

    @property
    def exists(self) -> bool:
        """Whether the folder contains a run."""
        return self.events.is_dir() or self.summary.is_file()

    def read_summary(self) -> dict[str, Any]:
        """Return `summary.json`; an empty dict if there is none yet."""
        return json.loads(self.summary.read_text()) if self.summary.is_file() else {}

    def update_summary(self, **changes: Any) -> dict[str, Any]:
        """Update fields of `summary.json` and return all of them."""
        summary = self.read_summary() | changes
        write_json(self.summary, summary)
        return summary

    def read_findings(self) -> list[Finding]:
        """Return the findings; an empty list if there is no file yet."""
        if not self.findings.is_file():
            return []
        return [Finding(**fields) for fields in json.loads(self.findings.read_text())]

    def write_findings(self, findings: Iterable[Finding]) -> None:
        """Replace `findings.json`."""
        write_json(self.findings, [f.to_dict() for f in findings])


def is_own_events(name: str) -> bool:
    """Return whether an event file with this name was written by stabletrain."""
    return _OWN_EVENTS.match(name) is not None


def has_own_events(folder: Path) -> bool:
    """Return whether a folder contains an event file of stabletrain."""
    return folder.is_dir() and any(is_own_events(path.name) for path in folder.glob(EVENT_FILES))


def folder_of(path: Path | str) -> RunFolder:
    """Return the run that a path belongs to: its folder, its `tensorboard/`, or an event file in there."""
    inner = Path(path).absolute()
    if inner.is_file() and is_own_events(inner.name):
        inner = inner.parent
    return RunFolder(inner.parent if inner.name == EVENTS and has_own_events(inner) else inner)


def write_json(path: Path, data: Any) -> None:
    """Write `data` as JSON, atomically."""
    replace_file(path, (json.dumps(data, indent=2, allow_nan=False) + "\n").encode())


def replace_file(path: Path, content: bytes) -> None:
    """Replace the file at `path` atomically, through a temporary file in the same folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
