"""Findings as text: the one place that words where, when and by what a finding was measured."""

from __future__ import annotations

from collections.abc import Sequence

from stabletrain.diagnosis.coverage import describe_unseen, is_unknown
from stabletrain.vocabulary.finding import Finding, by_cause, verdict_of


def describe(findings: Sequence[Finding], num_steps: int | None = None, unseen: tuple[str, ...] = ()) -> list[str]:
    """Return lines with the verdict and, for each cause with an alarm, its advice and symptoms.

    Args:
        findings: The findings of a run.
        num_steps: Number of steps taken, to be named beside the verdict.
        unseen: What was not measured (`diagnosis.coverage.find_unseen`), to be named below it.
    """
    after = "" if num_steps is None else f"   after {num_steps:,} steps"
    lines = [f"verdict: {verdict_of(findings, is_unknown(unseen))}{after}"]
    if (sentence := describe_unseen(unseen)) is not None:
        lines.append(f"  {sentence}")
    for cause, symptoms in by_cause(findings):
        if not cause.alarms:
            continue
        lines.append(f"  {cause.severity} {cause.kind} in {place(cause)}, {steps(cause)}")
        lines.append(f"    {cause.advice}")
        if symptoms:
            lines.append(f"    It explains: {'; '.join(f'{f.kind} in {place(f)}' for f in symptoms)}.")
    return lines


def place(finding: Finding) -> str:
    """Return the layer of a finding, or `the whole model`."""
    return finding.layer or "the whole model"


def steps(finding: Finding) -> str:
    """Return on which steps a finding was measured."""
    first, last = finding.first_step, finding.last_step
    return f"step {first:,}" if first == last else f"steps {first:,}–{last:,}"


def measured(finding: Finding) -> str:
    """Return the first number of the evidence with its threshold, or "" without a number."""
    name, value = next(((k, v) for k, v in finding.evidence.items() if _is_number(v)), ("", None))
    if value is None:
        return ""
    limit = finding.evidence.get("threshold")
    beside = f" (threshold {limit:.3g})" if _is_number(limit) and name != "threshold" else ""
    return f"{name.replace('_', ' ')} {value:.3g}{beside}"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
