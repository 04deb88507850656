"""The findings on the screen: a small table, then the suggested fixes for each cause."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from rich.markup import escape

from stabletrain.diagnosis.findings_text import measured, place, steps
from stabletrain.vocabulary.finding import Finding, by_cause

COLOURS = {"critical": "red", "warning": "yellow", "info": "dim"}
MAX_ROWS = 12
MAX_PLACE = 32  # characters of a layer's name, which then fits on one line of a terminal of 80
HEAD = 12  # of them before the ellipsis: the layer's index and the first module
MAX_REMEDIES = 3  # shown for each finding; the report and findings.json have all


def verdict_table(findings: Sequence[Finding]) -> Any:
    """Return a table of the findings above `info`, each cause followed by its symptoms; None if there are none."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    rows = [
        (finding, is_symptom)
        for cause, symptoms in by_cause(findings)
        if cause.alarms
        for finding, is_symptom in [(cause, False), *((f, True) for f in symptoms)]
    ]
    places = shorten(place(finding) for finding, _ in rows[:MAX_ROWS])
    fit = all(len(shown) <= MAX_PLACE for shown in places.values())
    for title in ("finding", "where", "when", "shown by"):
        table.add_column(title, overflow="fold", no_wrap=title == "where" and fit)
    for finding, is_symptom in rows[:MAX_ROWS]:
        colour = COLOURS[finding.severity]
        title = f"[dim]└ {finding.kind}[/]" if is_symptom else f"[{colour}]{finding.severity}[/] {finding.kind}"
        table.add_row(title, escape(places[place(finding)]), steps(finding), escape(measured(finding)))
    if len(rows) > MAX_ROWS:
        table.add_row(f"[dim]and {len(rows) - MAX_ROWS} more[/]", "", "", "[dim]in findings.json[/]")
    return table if rows else None


def shorten(names: Iterable[str]) -> dict[str, str]:
    """Return each name as it is shown: long ones shortened in the middle, and in full where two would look the same."""
    names = set(names)
    tail = MAX_PLACE - HEAD - 1
    short = {name: name if len(name) <= MAX_PLACE else f"{name[:HEAD]}…{name[-tail:]}" for name in names}
    count = Counter(short.values())
    return {name: shown if count[shown] == 1 else name for name, shown in short.items()}


def advice_lines(findings: Sequence[Finding]) -> list[str]:
    """Return lines of markup: for each cause its advice, and the overrides that fix it with their reasons."""
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
    """Return one line that lists the findings of severity `info`; None if there are none."""
    notes = sorted({cause.kind for cause, _ in by_cause(findings) if not cause.alarms})
    return f"  [dim]also seen, harmless so far: {', '.join(notes)}[/]" if notes else None
