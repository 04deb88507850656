"""A page that compares runs: verdicts, settings, gradients by layer and losses, on common axes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from stabletrain.record.bounded_reader import load_bounded
from stabletrain.record.reader import Record
from stabletrain.record.run_folder import RunFolder, replace_file
from stabletrain.report import explanations as words
from stabletrain.report import template
from stabletrain.report.compare_plots import Axes, Profile, draw_losses, draw_profile, losses_of, profile_of
from stabletrain.report.run_verdict import judge
from stabletrain.report.scaling import Speed, efficiencies, speed_of
from stabletrain.vocabulary import metric_names as names
from stabletrain.vocabulary.finding import HEALTHY, Finding

PAGE = "compare.html"
METRICS = (
    names.VAL_ACCURACY,
    names.VAL_MSE,
    names.VAL_LOSS,
    names.TRAIN_LOSS,
    names.TEST_ACCURACY,
    names.TEST_MSE,
    names.TEST_LOSS,
)
SHOWN_METRICS = 4  # columns; with more, the table would not fit on paper


@dataclass(frozen=True)
class Compared:
    """The part of a run that the page shows; the record itself is not kept, so that fifty runs fit in memory.

    Attributes:
        name: Name of its folder.
        folder: Its folder.
        summary: Content of `summary.json`.
        settings: Value of each setting: first the chosen options, then the numbers.
        findings: Its findings.
        profile: Gradient by layer at a few steps.
        losses: Loss curves by name, downsampled.
        speed: Examples per second and number of processes.
    """

    name: str
    folder: RunFolder
    summary: dict[str, Any]
    settings: dict[str, Any]
    findings: Sequence[Finding]
    profile: Profile
    losses: dict[str, list[tuple[float, float]]]
    speed: Speed


def write_comparison(folders: Sequence[RunFolder], page: Path) -> Path:
    """Write the page in one piece and return its path."""
    replace_file(page, render_comparison(folders, page.parent).encode())
    return page


def render_comparison(folders: Sequence[RunFolder], page_dir: Path) -> str:
    """Return the page.

    Args:
        folders: The runs, in the order of the page.
        page_dir: The folder that the page will be in; links to the runs' own pages are relative to it.
    """
    import jinja2

    runs = [_read(folder) for folder in folders]
    axes = Axes.around([run.profile for run in runs], [run.losses for run in runs])
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    keys = differing_keys([run.settings for run in runs])
    metrics = [m for m in METRICS if any(m in (run.summary.get("metrics") or {}) for run in runs)][:SHOWN_METRICS]
    shares = efficiencies([run.speed for run in runs])
    rows = [
        _row(run, number, keys, metrics, share, page_dir, axes)
        for number, (run, share) in enumerate(zip(runs, shares, strict=True), 1)
    ]
    scales = len({run.speed.world_size for run in runs}) > 1
    return environment.from_string(template.read("compare.html")).render(
        style=template.read("page.css") + template.read("compare.css"),
        rows=rows,
        keys=keys,
        metrics=metrics,
        scales=scales,
        num_healthy=sum(row["verdict"] == HEALTHY for row in rows),
        shared=_shared([run.settings for run in runs], keys),
    )


def differing_keys(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the keys whose values differ between runs, in the order of their first appearance."""
    keys = dict.fromkeys(key for values in settings for key in values)
    return [key for key in keys if len({repr(values.get(key)) for values in settings}) > 1]


def _shared(settings: Sequence[Mapping[str, Any]], keys: Iterable[str]) -> str:
    """Return the chosen options that all runs have in common."""
    return "  ".join(f"{k}={v}" for k, v in settings[0].items() if k not in keys and "." not in k)


def _read(folder: RunFolder) -> Compared:
    record, summary = load_bounded(folder.path), folder.read_summary()
    info = record.info
    return Compared(
        name=folder.path.name,
        folder=folder,
        summary=summary,
        settings={**(info.get("choices") or {}), **(info.get("parameters") or {})},
        findings=folder.read_findings(),
        profile=profile_of(record),
        losses=losses_of(record),
        speed=_speed(record, summary),
    )


def _speed(record: Record, summary: Mapping[str, Any]) -> Speed:
    return speed_of(record, summary.get("steps"), summary.get("seconds"))


def _row(
    run: Compared,
    number: int,
    keys: Sequence[str],
    metrics: Sequence[str],
    share: float | None,
    page_dir: Path,
    axes: Axes,
) -> dict[str, Any]:
    judged = judge(run.summary, run.findings)
    found = run.summary.get("metrics") or {}
    title = "  ".join(f"{key}={_value(run.settings.get(key))}" for key in keys if "." not in key) or run.name
    return {
        "number": number,
        "name": run.name,
        "title": title,
        "link": _link(run.folder.report, page_dir),
        "verdict": judged.verdict,
        "heading": words.verdict_words(judged.verdict)[0],
        "sign": judged.sign,
        "mood": judged.mood or "faint",
        "metrics": [words.number(found.get(metric)) for metric in metrics],
        "steps": words.number(run.summary.get("steps")),
        "seconds": words.duration(run.summary.get("seconds")),
        "differs": [_value(run.settings.get(key)) for key in keys],
        "world_size": run.speed.world_size,
        "samples_per_second": words.number(run.speed.samples_per_second),
        "efficiency": words.percent(share),
        "profile": draw_profile(run.profile, axes),
        "losses": draw_losses(run.losses, axes),
    }


def _value(value: Any) -> str:
    return "—" if value is None else words.number(value) if isinstance(value, float) else str(value)


def _link(report: Path, page_dir: Path) -> str | None:
    """Return a link from the page to a run's own page; None if it has none, or is on another drive."""
    if not report.is_file():
        return None
    try:
        return quote(Path(os.path.relpath(report, page_dir.absolute())).as_posix())
    except ValueError:
        return None
