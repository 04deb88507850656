"""What the doctor found, on the screen: a small table, then what helps against each cause."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.markup import escape

from stabletrain.diagnosis.findings_text import measured, place, steps
from stabletrain.vocabulary.finding import Finding, by_cause

COLOURS = {"critical": "red", "warning": "yellow", "info": "dim"}
MAX_ROWS = 12
MAX_UNBROKEN = 32  # letters: a layer's name is there to be copied, and stays on one line
MAX_REMEDIES = 3  # shown of each finding; the report and findings.json have all


def verdict_table(findings: Sequence[Finding]) -> Any:
    """Return a table of what alarms, what follows from a cause below it; None if nothing does."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    rows = [
        (finding, is_symptom)
        for cause, symptoms in by_cause(findings)
        if cause.alarms
        for finding, is_symptom in [(cause, False), *((f, True) for f in symptoms)]
    ]
    longest = max((len(place(finding)) for finding, _ in rows[:MAX_ROWS]), default=0)
    for title in ("finding", "where", "when", "shown by"):
        table.add_column(title, overflow="fold", no_wrap=title == "where" and longest <= MAX_UNBROKEN)
    for finding, is_symptom in rows[:MAX_ROWS]:
        colour = COLOURS[finding.severity]
        title = f"[dim]└ {finding.kind}[/]" if is_symptom else f"[{colour}]{finding.severity}[/] {finding.kind}"
        table.add_row(title, escape(place(finding)), steps(finding), escape(measured(finding)))
    if len(rows) > MAX_ROWS:
        table.add_row(f"[dim]and {len(rows) - MAX_ROWS} more[/]", "", "", "[dim]in findings.json[/]")
    return table if rows else None


def advice_lines(findings: Sequence[Finding]) -> list[str]:
    """Return lines of markup: of each cause the advice, and the overrides with why they help."""
    lines = []
    causes = [cause for cause, _ in by_cause(findings) if cause.alarms]
    for f in causes[:MAX_ROWS]:
        lines.append(f"  [bold]{f.kind}[/]: {escape(f.advice)}")
        remedies = f.remedies[:MAX_REMEDIES]
        width = max((len(override) for override, _ in remedies), default=0)
        for number, (override, why) in enumerate(remedies):
            lines.append(f"    {'   ' if number else 'try'}  [bold]{escape(override.ljust(width))}[/]  {escape(why)}")
    return lines


def notes_line(findings: Sequence[Finding]) -> str | None:
    """Return a line about what was seen and harms nothing, None if there is nothing."""
    notes = sorted({cause.kind for cause, _ in by_cause(findings) if not cause.alarms})
    return f"  [dim]seen, and harmless so far: {', '.join(notes)}[/]" if notes else None
