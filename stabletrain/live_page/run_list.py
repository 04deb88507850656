"""The list of all runs: one row each, made again only when the run's files have changed, a part of them per request."""

from __future__ import annotations

import contextlib
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stabletrain.live_page.run_files import find_runs, modified_ns, read_findings, read_summary
from stabletrain.live_page.run_state import is_open, state_of
from stabletrain.live_page.run_view import RunView, num_steps_of, steps_done
from stabletrain.record.glance import Glance, sizes_of
from stabletrain.record.run_folder import RunFolder
from stabletrain.record.writing_process import start_time_s
from stabletrain.report import explanations as words
from stabletrain.report.run_verdict import judge
from stabletrain.vocabulary.finding import Finding
from stabletrain.vocabulary.statuses import EXIT_CODES

PERIOD_S = 1.0  # between two looks at the folder
WORK_S = 0.25  # reading time per request; what is not read then is read with the next request
MAX_VIEWS = 8  # pages kept in memory, and runs that are diagnosed while they train
GROUPS = ("model", "data", "activation", "init", "norm", "residual", "clip", "optimizer", "schedule")
UNREMARKABLE = ("none", "default", "constant")  # options that are not listed


@dataclass
class _Row:
    folder: RunFolder
    glance: Glance
    signature: tuple[Any, ...] = ()
    is_read: bool = False
    version: int = 0
    content: dict[str, Any] = field(default_factory=dict)


class RunList:
    """The runs in a folder, and the pages of those that are looked at.

    Args:
        root: The folder.
        only: Name of the one run to show; None for all.
    """

    def __init__(self, root: Path, only: str | None = None) -> None:
        self.root, self.only = root.resolve(), only
        self._rows: dict[str, _Row] = {}
        self._views: OrderedDict[str, RunView] = OrderedDict()
        self._version = 0
        self._next_s = 0.0

    def changes(self, since: int) -> dict[str, Any]:
        """Return the rows that changed after a version, and the names of all runs.

        Args:
            since: The version of an earlier answer; 0 for all rows.
        """
        self.refresh()
        changed = [row.content for row in self._rows.values() if row.version > since and row.content]
        unread = sum(not row.is_read for row in self._rows.values())
        return {"version": self._version, "rows": changed, "names": [*self._rows], "unread": unread}

    def has(self, name: str) -> bool:
        """Return whether there is such a run."""
        row = self._rows.get(name)
        if row is None or not row.folder.path.is_dir():
            self.refresh(at_once=True)
        return name in self._rows

    def view(self, name: str) -> RunView | None:
        """Return the page of a run, up to date; None if there is no such run."""
        return self._view(name, self._rows[name].folder) if self.has(name) else None

    def refresh(self, *, at_once: bool = False) -> None:
        """Look at the folder, and read on in what has changed."""
        now = time.monotonic()
        if now >= self._next_s or at_once:
            self._look()
            self._next_s = time.monotonic() + PERIOD_S
        end = now + WORK_S
        for name, row in self._rows.items():
            if not row.is_read:
                with contextlib.suppress(OSError):  # deleted in between
                    self._read(name, row)
                if time.monotonic() > end:
                    break
        newest_first = sorted(self._rows, key=lambda name: self._rows[name].content.get("started", 0), reverse=True)
        self._rows = {name: self._rows[name] for name in newest_first}

    def _look(self) -> None:
        found = dict.fromkeys(find_runs(self.root, self.only))
        for name in [name for name in self._rows if name not in found]:
            del self._rows[name]
            self._views.pop(name, None)
            self._version += 1
        for name in found:
            row = self._rows.get(name)
            if row is None:
                folder = RunFolder(self.root / name)
                row = self._rows[name] = _Row(folder, Glance(folder.events))
            if row.is_read and row.signature != _signature(row.folder, row.content["state"]):
                row.is_read = False

    def _read(self, name: str, row: _Row) -> None:
        summary = read_summary(row.folder)
        state = state_of(row.folder, summary)
        row.signature = _signature(row.folder, state)
        is_read = row.glance.advance()
        findings: list[Finding] = []
        if is_open(state):
            findings = self._findings_so_far(name, row)
        elif state:
            findings = read_findings(row.folder) or []
        content = _content(name, row, summary, state, findings)
        if content != row.content:
            self._version += 1
            row.content, row.version = content, self._version
        row.is_read = is_read

    def _findings_so_far(self, name: str, row: _Row) -> list[Finding]:
        """Return the findings of a run that trains, if there are not too many of them."""
        if name not in self._views and len(self._views) >= MAX_VIEWS:
            return []
        return self._view(name, row.folder).findings

    def _view(self, name: str, folder: RunFolder) -> RunView:
        view = self._views.setdefault(name, RunView(name, folder))
        self._views.move_to_end(name)
        if len(self._views) > MAX_VIEWS:
            self._views.popitem(last=False)
        view.update()
        return view


def _signature(folder: RunFolder, state: str) -> tuple[Any, ...]:
    """Return what changes with the run's files; of a run that has ended, without a look at every event file."""
    written = (modified_ns(folder.summary), modified_ns(folder.events))
    if state in EXIT_CODES:
        return written
    return (*written, tuple(sizes_of(folder.events).items()), state_of(folder, {}))


def _content(name: str, row: _Row, summary: Mapping[str, Any], state: str, findings: list[Finding]) -> dict[str, Any]:
    info, judged = row.glance.info, judge(summary, findings)
    (steps, losses), planned = row.glance.curve, num_steps_of(info)
    return {
        "name": name,
        "title": str(info.get("run_name") or name),
        "experiment": str(info.get("experiment_name") or ""),
        "choices": choices_of(info),
        "state": state,
        "isOpen": is_open(state),
        "verdict": words.verdict_words(judged.verdict)[0],
        "sign": judged.sign,
        "mood": judged.mood,
        "step": steps_done(summary, state, row.glance.last_step + 1, planned),
        "numSteps": planned,
        "losses": [float(f"{loss:.4g}") for loss in losses],
        "steps": steps,
        "started": start_time_s(row.folder) or 0,
    }


def choices_of(info: Mapping[str, Any]) -> str:
    """Return the chosen options as text, such as `model=rnn clip=norm`, without those that do nothing."""
    choices = info.get("choices")
    if not isinstance(choices, Mapping):
        return ""
    return " ".join(f"{k}={choices[k]}" for k in GROUPS if choices.get(k) and choices[k] not in UNREMARKABLE)
