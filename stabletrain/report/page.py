"""The report of one run: a page that needs no network and no script."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stabletrain.diagnosis.finding import HEALTHY, Finding, verdict_of, worst_first
from stabletrain.record.folder import FAILED, RUNNING, RunFolder, replace_file
from stabletrain.record.reader import Record, load_record
from stabletrain.report import words
from stabletrain.report.commands import rerun_command
from stabletrain.report.curves import draw_curves, nonfinite_steps, panels_of
from stabletrain.report.heatmap import draw_heatmap
from stabletrain.report.ridges import draw_ridges, ridge_limits
from stabletrain.report.template import PAGE, SCRIPT, STYLE

MAX_FRAMES = 9  # about 0.1 s and 150 kB each
SHOWN_FINDINGS = 8


def write_report(folder: RunFolder) -> Path:
    """Write `report.html` whole, and return its path."""
    replace_file(folder.report, render_report(folder).encode())
    return folder.report


def render_report(folder: RunFolder) -> str:
    """Return the page of a run, from whatever part of its record is there."""
    import jinja2

    record, summary, findings = load_record(folder.path), folder.read_summary(), worst_first(folder.read_findings())
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    info = record.info
    return environment.from_string(PAGE).render(
        policy=_policy(),
        style=STYLE,
        script=SCRIPT,
        name=" / ".join(str(info[k]) for k in ("experiment_name", "run_name") if info.get(k)) or folder.path.name,
        **_verdict_part(record, summary, findings),
        metrics=[(key, words.number(value)) for key, value in _mapping(summary.get("metrics")).items()],
        facts=_facts(record, summary),
        link=_link(summary.get("mlflow_url")),
        command=_text(info.get("command")),
        findings=[_finding_part(finding, info) for finding in findings],
        shown=SHOWN_FINDINGS,
        pictures=_pictures(record),
        frames=_frames(record),
        parameters=sorted((str(k), str(v)) for k, v in _mapping(info.get("parameters")).items()),
        versions=[(f"version of {k}", str(v)) for k, v in _mapping(info.get("versions")).items()],
    )


def _policy() -> str:
    """Forbid the page everything but its own style, script and pictures."""
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    return f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


def _verdict_part(record: Record, summary: Mapping[str, Any], findings: Sequence[Finding]) -> dict[str, Any]:
    status = summary.get("status")
    verdict = summary.get("verdict")
    if not verdict or status == RUNNING:  # the findings so far speak, and their absence proves nothing
        verdict = verdict_of(findings)
        verdict = words.NO_VERDICT if verdict == HEALTHY else verdict
    if status == FAILED and verdict in (HEALTHY, words.NO_VERDICT):
        verdict = words.RUN_FAILED
    heading, sentence = words.verdict_words(str(verdict))
    worst = next((f for f in findings if f.kind == verdict and f.severity != "info"), None)
    if verdict in (HEALTHY, words.NO_VERDICT):
        mood, sign = ("good", "✔") if verdict == HEALTHY else ("", "…")
    else:
        mood = worst.severity if worst else "warning"
        sign = words.SEVERITY_SIGNS[mood]
    nothing_recorded = not record.scalars and not record.histograms
    status_words = words.STATUSES.get(str(status), "" if status is None else f"Status: {status}.")
    return {
        "heading": heading,
        "sentence": sentence,
        "mood": mood,
        "sign": sign,
        "status": "Nothing was recorded. " * nothing_recorded + status_words,
        "headline": _finding_part(worst, record.info) if worst else None,
        "nothing_found": "The doctor found nothing." if status not in (None, RUNNING) else "Nothing found so far.",
    }


def _finding_part(finding: Finding, info: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "severity": finding.severity,
        "sign": words.SEVERITY_SIGNS[finding.severity],
        "heading": words.verdict_words(finding.kind)[0],
        "where": finding.layer or "whole model",
        "steps": words.steps(finding.first_step, finding.last_step),
        "advice": finding.advice,
        "evidence": " · ".join(f"{str(k).replace('_', ' ')}: {words.number(v)}" for k, v in finding.evidence.items()),
        "commands": [rerun_command(info, override) for override in finding.overrides],
    }


def _facts(record: Record, summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    info = record.info
    choices, dataset = _mapping(info.get("choices")), _mapping(info.get("dataset"))
    size = info.get("num_parameters")
    data = [dataset.get("name") or choices.get("data"), dataset.get("task"), dataset.get("form")]
    if dataset.get("num_train") is not None:
        data.append(f"{words.number(dataset['num_train'])} training examples")
    steps = summary.get("steps")
    facts = {
        "Model": [choices.get("model"), f"{words.number(size)} parameters" if size is not None else None],
        "Data": data,
        "Options": [f"{k} {v}" for k, v in choices.items() if k in ("activation", "init", "norm", "clip", "optimizer")],
        "Steps": [words.number(steps) if steps is not None else None],
        "Time": [words.duration(summary["seconds"]) if summary.get("seconds") is not None else None],
        "Cost of watching": [words.percent(summary["watch_overhead"]) if summary.get("watch_overhead") else None],
        "Started": [info.get("started")],
        "Git commit": [info.get("git_commit")],
        "Resumed from": [summary.get("resumed_from")],
        "Versions": [f"{k} {v}" for k, v in _mapping(info.get("versions")).items()],
        "Run": [info.get("run_uid")],
    }
    joined = {key: ", ".join(str(part) for part in parts if part) for key, parts in facts.items()}
    return [(key, text) for key, text in joined.items() if text]


def _pictures(record: Record) -> list[dict[str, str]]:
    pictures = []
    if panels_of(record):
        pictures.append(
            {
                "heading": "How the training went",
                "reading": "The loss should fall and settle. Where the gradient norm after clipping lies below the one "
                "before, clipping was at work.",
                "source": _data_url(draw_curves(record)),
                "alt": "Curves over the steps: "
                + ", ".join(panel.heading.lower() for panel in panels_of(record))
                + ".",
            }
        )
    if record.layers:
        pictures.append(
            {
                "heading": "The gradient of each layer over the run",
                "reading": "Each row is a layer, input at the top. Bright is large, dark is small: one even colour is "
                "healthy, dark rows at the top mean that the gradient vanishes, rows that brighten with time that it "
                "explodes, and red marks Inf or NaN.",
                "source": _data_url(draw_heatmap(record)),
                "alt": f"Heatmap of the gradient's rms, {len(record.layers)} layers by step, in powers of ten.",
            }
        )
    return pictures


def _frames(record: Record) -> list[dict[str, Any]]:
    steps = frame_steps(record)
    limits = ridge_limits(record)
    keys = {steps[0], steps[len(steps) // 2], steps[-1]} if steps else set()
    frames = []
    for step in steps:
        histograms = {layer: by_step[step] for layer, by_step in record.histograms.items() if step in by_step}
        frames.append(
            {
                "key": step in keys,
                "label": f"step {step:,}",
                "source": _data_url(draw_ridges(histograms, step=step, limits=limits)),
                "alt": f"Distribution of the gradient's size in each of {len(histograms)} layers at step {step}.",
            }
        )
    return frames


def frame_steps(record: Record, max_frames: int = MAX_FRAMES) -> list[int]:
    """Return the steps whose ridges are shown: evenly spaced, first and last, and those around the first Inf or NaN."""
    steps = sorted({step for by_step in record.histograms.values() for step in by_step})
    if len(steps) <= max_frames:
        return steps
    wanted = {0, len(steps) - 1}
    bad = nonfinite_steps(record)
    if bad:
        place = int(np.searchsorted(steps, bad[0]))
        wanted |= {max(place - 1, 0), min(place, len(steps) - 1)}
    even = np.linspace(0, len(steps) - 1, max_frames + 2 - len(wanted)).round().astype(int)
    return [steps[k] for k in sorted(wanted | set(even.tolist()))]


def _data_url(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _link(url: Any) -> str | None:
    """Return `url` if it is one that a browser may follow without harm."""
    return url if isinstance(url, str) and url.lower().startswith(("http://", "https://")) else None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _text(command: Any) -> str:
    return command if isinstance(command, str) else " ".join(map(str, command or []))
