"""What a sweep leaves behind: `sweep.json` beside the folders of its children."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from stabletrain.record.run_folder import RunFolder, replace_file, write_json

FILE_NAME = "sweep.json"


class SweepFolder:
    """Paths of a sweep's files, what the sweep is, and how its children ended.

    The children run in processes, and on machines, of their own: each leaves a file that no other writes.

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
        """Whether the folder holds a sweep."""
        return self.file.is_file()

    def child(self, number: int) -> RunFolder:
        """Return the folder of a child."""
        return RunFolder(self.path / str(number))

    def children(self) -> list[RunFolder]:
        """Return the folders of the children that recorded something, in the order of their numbers."""
        numbers = sorted(int(p.name) for p in self.path.iterdir() if p.name.isdigit())
        return [folder for folder in map(self.child, numbers) if folder.events.is_dir()]

    def read(self) -> dict[str, Any]:
        """Return `sweep.json`."""
        return json.loads(self.file.read_text()) if self.exists else {}

    def update(self, **changes: Any) -> None:
        """Change fields of `sweep.json`."""
        write_json(self.file, self.read() | changes)

    def write_outcome(self, outcome: dict[str, Any]) -> None:
        """Keep how a child ended."""
        text = json.dumps(outcome, default=str, allow_nan=True)
        replace_file(self._outcomes / f"{outcome['number']}.json", text.encode())

    def read_outcomes(self) -> list[dict[str, Any]]:
        """Return how the children ended, in the order of their numbers."""
        found = self.read().get("children", []) + [json.loads(p.read_text()) for p in self._outcomes.glob("*.json")]
        latest = {outcome["number"]: outcome for outcome in found}
        return [latest[number] for number in sorted(latest)]

    def conclude(self, outcomes: list[dict[str, Any]], **changes: Any) -> None:
        """Move how the children ended into `sweep.json`."""
        self.update(children=outcomes, **changes)
        shutil.rmtree(self._outcomes, ignore_errors=True)

    def remove(self) -> None:
        """Remove a sweep in which nothing was trained."""
        shutil.rmtree(self.path)


def sweep_of(run_dir: Path | str) -> SweepFolder | None:
    """Return the sweep that a run is a child of, or None."""
    sweep = SweepFolder(Path(run_dir).absolute().parent)
    return sweep if sweep.exists else None


def folder_above(run_dir: Path | str) -> Path:
    """Return the folder that a run lies in; of a sweep's child, the folder that the sweep lies in."""
    sweep = sweep_of(run_dir)
    return sweep.path.parent if sweep else Path(run_dir).absolute().parent
