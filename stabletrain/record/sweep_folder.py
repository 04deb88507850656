"""The files of a sweep: `sweep.json` beside the folders of its children."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from stabletrain.record.run_folder import RunFolder, replace_file, write_json

FILE_NAME = "sweep.json"


class SweepFolder:
    """Paths of a sweep's files, its metadata, and the outcomes of its children.

    Children run in separate processes, possibly on separate machines: each writes its own file.

    Args:
        path: The sweep's `output_dir`; child 3 writes to `3` inside.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path).absolute()
        self.file = self.path / FILE_NAME
        self.report = self.path / "report.html"
        self.lock = self.path / ".mlflow.lock"
        self._outcomes = self.path / ".outcomes"

    @property
    def exists(self) -> bool:
        """Whether the folder contains a sweep."""
        return self.file.is_file()

    def child(self, number: int) -> RunFolder:
        """Return the folder of a child."""
        return RunFolder(self.path / str(number))

    def children(self) -> list[RunFolder]:
        """Return the folders of the children with a record, in the order of their numbers."""
        numbers = sorted(int(p.name) for p in self.path.iterdir() if p.name.isdigit())
        return [folder for folder in map(self.child, numbers) if folder.events.is_dir()]

    def read(self) -> dict[str, Any]:
        """Return `sweep.json`."""
        return json.loads(self.file.read_text()) if self.exists else {}

    def update(self, **changes: Any) -> None:
        """Change fields of `sweep.json`."""
        write_json(self.file, self.read() | changes)

    def write_outcome(self, outcome: dict[str, Any]) -> None:
        """Write the outcome of a child."""
        text = json.dumps(outcome, default=str, allow_nan=True)
        replace_file(self._outcomes / f"{outcome['number']}.json", text.encode())

    def read_outcomes(self) -> list[dict[str, Any]]:
        """Return the outcomes of the children, in the order of their numbers."""
        found = self.read().get("children", []) + [json.loads(p.read_text()) for p in self._outcomes.glob("*.json")]
        latest = {outcome["number"]: outcome for outcome in found}
        return [latest[number] for number in sorted(latest)]

    def conclude(self, outcomes: list[dict[str, Any]], **changes: Any) -> None:
        """Move the outcomes of the children into `sweep.json`."""
        self.update(children=outcomes, **changes)
        shutil.rmtree(self._outcomes, ignore_errors=True)

    def remove(self) -> None:
        """Remove the folder of a sweep that trained nothing."""
        shutil.rmtree(self.path)


def sweep_of(run_dir: Path | str) -> SweepFolder | None:
    """Return the sweep that a run belongs to, or None."""
    sweep = SweepFolder(Path(run_dir).absolute().parent)
    return sweep if sweep.exists else None


def folder_above(run_dir: Path | str) -> Path:
    """Return the folder that contains a run; for a child of a sweep, the folder that contains the sweep."""
    sweep = sweep_of(run_dir)
    return sweep.path.parent if sweep else Path(run_dir).absolute().parent
