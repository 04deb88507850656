"""The files of a run. Small JSON files are replaced atomically."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from stabletrain.vocabulary.finding import Finding

EVENTS, SUMMARY = "tensorboard", "summary.json"


class RunFolder:
    """Paths of a run's files; reads and writes its summary and findings.

    Args:
        path: The run's `output_dir`.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path).absolute()
        self.config = self.path / "config.yaml"
        self.events = self.path / EVENTS
        self.checkpoints = self.path / "checkpoints"
        self.findings = self.path / "findings.json"
        self.summary = self.path / SUMMARY
        self.report = self.path / "report.html"

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
