"""`diagnose PATH` for the log of another tool: what was read, what it shows, and what was not recorded."""

from __future__ import annotations

from rich.markup import escape

from stabletrain.app.console import Console
from stabletrain.diagnosis.logged_run import LogDiagnosis, diagnose_log
from stabletrain.record.foreign_logs.detection import read_log
from stabletrain.record.foreign_logs.log import ForeignLog
from stabletrain.vocabulary.finding import UNKNOWN, Finding
from stabletrain.vocabulary.log_format import LogFormat

MAX_KINDS = 6  # that were not judged, of those that are named
MAX_OTHERS = 6  # names that no rule reads, of those that are shown


def examine_log(path: str, console: Console, loss: str | None = None, counts_epochs: bool = False) -> list[Finding]:
    """Print the verdict on a log and return the findings. Nothing is written.

    Args:
        path: A file, or a folder with the log of one run.
        console: Where to print.
        loss: Name that the training's loss has in the log; None to recognize it.
        counts_epochs: Whether what the log calls steps are epochs.

    Raises:
        RequestError: There is no log, there are several, its format is not known, or nothing in it can be judged.
    """
    log = read_log(path, loss)
    log = log.count_epochs() if counts_epochs else log
    result = diagnose_log(log)
    because = f": {escape(result.reason)}" if result.verdict == UNKNOWN else ""
    console.print(f"{escape(path)}: [bold]{result.verdict}[/]{because}")
    for line in _read_lines(log):
        console.print(f"  [dim]{escape(line)}[/]")
    console.show(result.findings)
    console.print(f"  {escape(_missing_line(result, log.format))}")
    return result.findings


def _missing_line(result: LogDiagnosis, form: LogFormat) -> str:
    """Return what was not recorded, what could therefore not be judged, and the code that would record it."""
    more = len(result.unjudged) - MAX_KINDS
    kinds = ", ".join(result.unjudged[:MAX_KINDS]) + (f" and {more} more" if more > 0 else "")
    return f"not recorded: {', '.join(result.missing)}; so not judged: {kinds}. To record it: {form.recorder}"


def _read_lines(log: ForeignLog) -> list[str]:
    """Return what was read, under which names, and what could not be read."""
    ends = _ends(log)
    span = f", {log.unit} {ends[0]:,}–{ends[1]:,}" if ends else ""
    lines = [f"read as {log.format.name}: {log.num_rows:,} rows{span}"]
    lines.append("; ".join(f"{theirs} is {ours}" for ours, theirs in log.read_as.items()))
    if log.others:
        more = len(log.others) - MAX_OTHERS
        lines.append(f"not read: {', '.join(log.others[:MAX_OTHERS])}" + (f" and {more} more" if more > 0 else ""))
    return [*lines, *log.notes]


def _ends(log: ForeignLog) -> tuple[int, int] | None:
    """Return the first and the last step, epoch or row with a number; None without any."""
    found = [series.steps for series in log.scalars.values() if len(series.steps)]
    steps = [step for steps in found for step in (steps[0], steps[-1])]
    if not steps:
        return None
    return min(steps) // log.steps_per_unit, max(steps) // log.steps_per_unit
