"""What the page of one run shows, made again only when its files have changed."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from stabletrain.diagnosis.doctor import diagnose
from stabletrain.diagnosis.observations import Observations
from stabletrain.diagnosis.rules.depth import RATIO_DECADES, depth_decades
from stabletrain.diagnosis.weight_tables import weights
from stabletrain.live_page.collected_run import CollectedRun
from stabletrain.live_page.run_files import modified_ns, read_findings, read_summary
from stabletrain.live_page.run_state import WORDS, is_open, state_of
from stabletrain.record.glance import sizes_of
from stabletrain.record.run_folder import RunFolder
from stabletrain.report import template
from stabletrain.report.page import causes_of, page_texts
from stabletrain.report.page_data import page_data, to_json
from stabletrain.report.pictures.drawing import power_of_ten
from stabletrain.vocabulary import metric_names as names
from stabletrain.vocabulary.finding import Finding
from stabletrain.vocabulary.signals import GRADIENT

ASSETS = Path(__file__).parent / "assets"
READ_S = 0.5  # reading time per request
PAUSE_FACTOR = 40.0  # after t CPU seconds of work for a run that trains, the next 40 t are without: 2.5% of a core
PARTIAL_FACTOR = 4.0  # the same between two pages of a record that has not been read to its end
PARTS = ("verdict", "results", "findings", "settings")  # blocks of the report's template


class RunView:
    """The page of a run as JSON, with a version by which a browser tells whether it has changed.

    Args:
        name: Name of the run among those of the page.
        folder: Its folder.
    """

    def __init__(self, name: str, folder: RunFolder) -> None:
        self.name, self.folder = name, folder
        self.findings: list[Finding] = []
        self.version, self.json = "", ""
        self._collected = CollectedRun(folder.events)
        self._signature: tuple[Any, ...] = ()
        self._is_complete = False
        self._next_s = self._next_partial_s = 0.0

    def update(self) -> None:
        """Read what is new and make the page again, if there is something new and the last pause is over."""
        start, used = time.monotonic(), time.thread_time()
        if start < self._next_s:
            return
        summary = read_summary(self.folder)
        state = state_of(self.folder, summary)
        files = sizes_of(self.folder.events)
        written = tuple(map(modified_ns, (self.folder.summary, self.folder.findings)))
        signature = (tuple(files.items()), written, state)
        if self._is_complete and signature == self._signature:
            return
        with contextlib.suppress(OSError):  # deleted in between: the next request finds no run
            self._is_complete = self._collected.advance(READ_S)
        self._signature = signature
        if not self._is_complete and start < self._next_partial_s:
            return
        read = time.thread_time()
        self._make(summary, state)
        now, end = time.monotonic(), time.thread_time()
        self._next_partial_s = now + PARTIAL_FACTOR * (end - read)
        if is_open(state) and self._is_complete:
            self._next_s = now + PAUSE_FACTOR * (end - used)

    def _make(self, summary: Mapping[str, Any], state: str) -> None:
        seen = self._collected.observations()
        written = None if is_open(state) or not self._is_complete else read_findings(self.folder)
        self.findings = diagnose(seen) if written is None else written
        record, causes = self._collected.to_record(seen), causes_of(self.findings)
        texts = page_texts(record, summary, self.findings, self.folder.path.name)
        texts |= {"status": WORDS.get(state, texts["status"])}
        if is_open(state) and not texts["mood"]:
            texts |= {"sentence": "Nothing alarming so far. The verdict follows at the end of the run."}
        losses, planned = seen.scalars.get(names.TRAIN_LOSS), num_steps_of(record.info)
        recorded = 1 + max(self._collected.last_step, int(losses.steps[-1]) if losses else -1)
        content = {
            "state": state,
            "isOpen": is_open(state),
            "isComplete": self._is_complete,
            "title": f"{texts['heading']} – {texts['name']}",
            "step": steps_done(summary, state, recorded, planned),
            "numSteps": planned,
            "depth": describe_depth(seen),
            "parts": render_parts(texts),
            "data": page_data(record, causes) if record.scalars or record.histograms or record.vectors else None,
        }
        self.json = to_json(content)
        self.version = f'"{time.time_ns():x}"'


def num_steps_of(info: Mapping[str, Any]) -> int | None:
    """Return the planned number of steps; None if it is unknown or unlimited."""
    training = info.get("training")
    planned = training.get("num_steps") if isinstance(training, Mapping) else None
    return int(planned) if isinstance(planned, int | float) and 0 < planned < 2**53 else None


def steps_done(summary: Mapping[str, Any], state: str, recorded: int, planned: int | None) -> int:
    """Return the number of steps done.

    Args:
        summary: Content of `summary.json`, which knows the number once the run has ended.
        state: Its state.
        recorded: Last recorded step plus one; a validation is recorded at the step that follows it.
        planned: Planned number of steps; None if it is unknown.
    """
    known = summary.get("steps")
    if not is_open(state) and isinstance(known, int):
        return known
    return min(recorded, planned) if planned else recorded


def describe_depth(seen: Observations) -> dict[str, str] | None:
    """Return the latest ratio of the first layers' gradient to the last layers', as text with a mood.

    The doctor waits for several measurements, and for a training that lags, before it raises an alarm; this is one
    measurement, shown as it is.
    """
    table = weights(seen, GRADIENT)
    if table is None or not len(table.steps):
        return None
    decades = float(depth_decades(table.values[-1:])[0])
    if np.isnan(decades):
        return None
    size = f"{10**decades:.2g}" if abs(decades) < 3 else power_of_ten(round(decades))
    text = f"Gradient of the first layers ÷ last layers: {size} at step {int(table.steps[-1]):,}"
    if abs(decades) <= RATIO_DECADES:
        return {"text": text, "mood": ""}
    return {"text": f"▲ {text}, {'vanishing' if decades < 0 else 'exploding'}", "mood": "warning"}


def render_parts(texts: Mapping[str, Any]) -> dict[str, str]:
    """Return the parts of the report that are text, as HTML; everything inserted is escaped."""
    page = environment().get_template("page.html")
    return {part: "".join(page.blocks[part](page.new_context(dict(texts)))) for part in PARTS}


@functools.cache
def environment() -> jinja2.Environment:
    """Return the templates of the report and of this package."""
    folders: Sequence[Path] = (ASSETS, template.ASSETS)
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(folders),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
