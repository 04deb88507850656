"""The description of an MLflow run in Markdown. MLflow folds it after a few lines, so the verdict comes first."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from stabletrain.diagnosis.findings_text import steps
from stabletrain.report.run_verdict import verdict_so_far
from stabletrain.vocabulary.finding import HEALTHY, UNKNOWN, Finding, by_cause

MAX_LENGTH = 7500  # a tag holds 8,000 characters
MAX_FINDINGS = 12


def describe(
    summary: Mapping[str, Any], findings: Sequence[Finding], info: Mapping[str, Any], note: str | None = None
) -> str:
    """Return the description of a run.

    Args:
        summary: Content of `summary.json`.
        findings: Findings of the run.
        info: What the record says about the run.
        note: A sentence about how it ended, if any.
    """
    verdict = verdict_so_far(summary, findings)
    parts = [f"### Verdict: {_headline(verdict)}"]
    parts += [_text(note)] if note else []
    parts += [text for text in (_findings(findings), _metrics(summary.get("metrics"))) if text]
    if command := info.get("command"):
        command = " ".join(map(str, command)) if isinstance(command, list) else str(command)
        parts.append("**Command**\n\n" + _block(command))
    text = "\n\n".join(parts)
    return text if len(text) <= MAX_LENGTH else text[: MAX_LENGTH - 2].rstrip() + "\n…"


def _headline(verdict: str | None) -> str:
    if verdict is None:
        return "none yet"
    if verdict == UNKNOWN:
        return "unknown: too little was measured"
    return "✅ healthy" if verdict == HEALTHY else f"⚠️ {_text(verdict)}"


def _metrics(metrics: Any) -> str:
    if not isinstance(metrics, Mapping) or not metrics:
        return ""
    rows = [f"| {_text(name)} | {_number(value)} |" for name, value in list(metrics.items())[:20]]
    return "\n".join(["| metric | value |", "|---|---|", *rows])


def _findings(findings: Sequence[Finding]) -> str:
    groups = by_cause(findings)
    lines = [line for cause, symptoms in groups[:MAX_FINDINGS] for line in (_line(cause), *map(_symptom, symptoms))]
    if len(groups) > MAX_FINDINGS:
        lines.append(f"- and {len(groups) - MAX_FINDINGS} more in `findings.json`")
    return "**Findings**\n\n" + "\n".join(lines) if lines else ""


def _line(finding: Finding) -> str:
    line = f"- **{finding.severity}: {finding.kind}**{_where(finding)}, {steps(finding)}. {_text(finding.advice)}"
    overrides = ", ".join(f"`{_code(o)}`" for o in finding.overrides)
    return line + (f" Try {overrides}." if overrides else "")


def _symptom(finding: Finding) -> str:
    return f"    - explains {finding.kind}{_where(finding)}"


def _where(finding: Finding) -> str:
    return f" in `{_code(finding.layer)}`" if finding.layer else ""


def _number(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else _text(value)


def _text(value: Any) -> str:
    text = " ".join(str(value).split())
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", text)


def _code(value: Any) -> str:
    return " ".join(str(value).replace("`", "'").split())


def _block(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())
