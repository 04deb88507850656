"""What a run leaves behind, by name; small JSON files are replaced whole, never half written."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from stabletrain.vocabulary.finding import Finding


class RunFolder:
    """Paths of a run's files, and its summary and findings.

    Args:
        path: The run's `output_dir`.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path).absolute()
        self.config = self.path / "config.yaml"
        self.events = self.path / "tensorboard"
        self.checkpoints = self.path / "checkpoints"
        self.findings = self.path / "findings.json"
        self.summary = self.path / "summary.json"
        self.report = self.path / "report.html"

    def read_summary(self) -> dict[str, Any]:
        """Return `summary.json`, or an empty dict if the run has none yet."""
        return json.loads(self.summary.read_text()) if self.summary.is_file() else {}

    def update_summary(self, **changes: Any) -> dict[str, Any]:
        """Change fields of `summary.json` and return the whole."""
        summary = self.read_summary() | changes
        write_json(self.summary, summary)
        return summary

    def read_findings(self) -> list[Finding]:
        """Return the findings, or an empty list if the run has none yet."""
        if not self.findings.is_file():
            return []
        return [Finding(**fields) for fields in json.loads(self.findings.read_text())]

    def write_findings(self, findings: Iterable[Finding]) -> None:
        """Replace `findings.json`."""
        write_json(self.findings, [f.to_dict() for f in findings])


def write_json(path: Path, data: Any) -> None:
    """Write `data` as JSON through a temporary file in the same folder."""
    replace_file(path, (json.dumps(data, indent=2, allow_nan=False) + "\n").encode())


def replace_file(path: Path, content: bytes) -> None:
    """Put `content` at `path` in one move: a reader sees the old file or the new one, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
