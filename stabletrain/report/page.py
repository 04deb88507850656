"""The report of one run: a self-contained page whose essential content needs no script."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stabletrain.diagnosis.findings_text import place, steps
from stabletrain.record.bounded_reader import load_bounded
from stabletrain.record.reader import Record
from stabletrain.record.run_folder import RunFolder, replace_file
from stabletrain.report import explanations as words
from stabletrain.report import template
from stabletrain.report.page_data import page_data, to_json
from stabletrain.report.rerun_commands import rerun_command
from stabletrain.report.run_verdict import judge
from stabletrain.report.static_images import stills
from stabletrain.vocabulary.finding import Finding, by_cause, worst_first
from stabletrain.vocabulary.statuses import RUNNING

SHOWN_FINDINGS = 8


def write_report(folder: RunFolder) -> Path:
    """Write `report.html` in one piece and return its path."""
    replace_file(folder.report, render_report(folder).encode())
    return folder.report


def render_report(folder: RunFolder) -> str:
    """Return the page of a run, from whatever part of its record exists."""
    import jinja2

    record, summary, findings = load_bounded(folder.path), folder.read_summary(), worst_first(folder.read_findings())
    causes = causes_of(findings)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    script = template.script()
    return environment.from_string(template.page()).render(
        policy=_policy(script),
        style=template.style(),
        script=script,
        data=to_json(page_data(record, causes)) if record.scalars or record.histograms or record.vectors else None,
        **page_texts(record, summary, findings, folder.path.name),
        **stills(record, causes),
    )


def causes_of(findings: Sequence[Finding]) -> list[Finding]:
    """Return the findings that are marked in the pictures: the causes without their symptoms, worst first."""
    return [cause for cause, _ in by_cause(findings)]


def page_texts(
    record: Record, summary: Mapping[str, Any], findings: Sequence[Finding], folder_name: str
) -> dict[str, Any]:
    """Return everything that the page says in words, by the names in its template.

    Args:
        record: The record, of which only `info` and the presence of measurements count.
        summary: Content of `summary.json`.
        findings: Findings of the run.
        folder_name: Name of the run if it has no other.
    """
    groups, info = by_cause(findings), record.info
    return {
        "name": " / ".join(str(info[k]) for k in ("experiment_name", "run_name") if info.get(k)) or folder_name,
        **_verdict_part(record, summary, findings),
        "metrics": [(key, words.number(value)) for key, value in _mapping(summary.get("metrics")).items()],
        "facts": _facts(record, summary),
        "link": _link(summary.get("mlflow_url")),
        "command": _text(info.get("command")),
        "findings": [_finding_part(cause, info, symptoms) for cause, symptoms in groups],
        "shown": min(SHOWN_FINDINGS, sum(cause.alarms for cause, _ in groups)),
        "parameters": sorted((str(k), str(v)) for k, v in _mapping(info.get("parameters")).items()),
        "versions": [(f"version of {k}", str(v)) for k, v in _mapping(info.get("versions")).items()],
    }


def _policy(script: str) -> str:
    """Return a content security policy that allows only the page's own style, script and pictures."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


def _verdict_part(record: Record, summary: Mapping[str, Any], findings: Sequence[Finding]) -> dict[str, Any]:
    status, judged = summary.get("status"), judge(summary, findings)
    heading, sentence = words.verdict_words(judged.verdict)
    nothing_recorded = not record.scalars and not record.histograms
    status_words = words.STATUSES.get(str(status), "" if status is None else f"Status: {status}.")
    return {
        "heading": heading,
        "sentence": sentence,
        "mood": judged.mood,
        "sign": judged.sign,
        "status": "Nothing was recorded. " * nothing_recorded + status_words,
        "headline": _finding_part(judged.worst, record.info) if judged.worst else None,
        "nothing_found": "No problem found." if status not in (None, RUNNING) else "No problem found so far.",
    }


def _finding_part(finding: Finding, info: Mapping[str, Any], symptoms: Sequence[Finding] = ()) -> dict[str, Any]:
    return {
        "severity": finding.severity,
        "sign": words.SEVERITY_SIGNS[finding.severity],
        "heading": words.verdict_words(finding.kind)[0],
        "where": place(finding),
        "steps": steps(finding),
        "advice": finding.advice,
        "evidence": " · ".join(f"{str(k).replace('_', ' ')}: {words.number(v)}" for k, v in finding.evidence.items()),
        "commands": [(rerun_command(info, override), why) for override, why in finding.remedies],
        "symptoms": [f"{words.verdict_words(f.kind)[0]}: {place(f)}, {steps(f)}" for f in symptoms],
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
        "Monitoring overhead": [words.percent(summary["watch_overhead"]) if summary.get("watch_overhead") else None],
        "Started": [info.get("started")],
        "Git commit": [info.get("git_commit")],
        "Resumed from": [summary.get("resumed_from")],
        "Versions": [f"{k} {v}" for k, v in _mapping(info.get("versions")).items()],
        "Run": [info.get("run_uid")],
    }
    joined = {key: ", ".join(str(part) for part in parts if part) for key, parts in facts.items()}
    return [(key, text) for key, text in joined.items() if text]


def _link(url: Any) -> str | None:
    """Return `url` if it is safe as a link, that is, HTTP or HTTPS."""
    return url if isinstance(url, str) and url.lower().startswith(("http://", "https://")) else None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _text(command: Any) -> str:
    return command if isinstance(command, str) else " ".join(map(str, command or []))
