"""The two lines of the progress bar: how far the run is, and how it does."""

from __future__ import annotations

from collections.abc import Sequence

from stabletrain.training.display.lines import GAP, Line, Part, fit, join
from stabletrain.training.display.numbers import duration, short, speed
from stabletrain.training.display.readings import Readings
from stabletrain.vocabulary.finding import CRITICAL, HEALTHY, Finding, by_cause

MIN_BAR, MAX_BAR = 8, 60  # characters
SEVERITY_STYLES = {CRITICAL: "bold red"}
ALARM_STYLE = "bold yellow"


def status_lines(readings: Readings, width: int, ascii_only: bool = False) -> list[Line]:
    """Return the bar with steps, speed and time left, and below it loss, metric, gradients and the doctor's state."""
    lines = [progress_line(readings, width, ascii_only), join(_values(readings), width)]
    return [line for line in lines if line]


def progress_line(readings: Readings, width: int, ascii_only: bool = False) -> Line:
    """Return one line with the bar, which takes the room that the rest leaves."""
    parts = _progress(readings)
    if readings.share is None:
        return join(parts, width)
    shown = fit(parts, width - MIN_BAR - GAP)
    room = width - sum(len(part.forms[0]) for part in shown) - GAP * len(shown)
    bar = _bar(readings.share, min(MAX_BAR, room), ascii_only)
    line: Line = []
    for number, part in enumerate(shown):
        line += [(part.forms[0], part.style), (" " * GAP, "")]
        if number == 0:
            line += [*bar, (" " * GAP, "")]
    return line[:-1] if shown else bar


def _progress(readings: Readings) -> list[Part]:
    epochs, steps = _of(readings.epoch, readings.num_epochs), _of(readings.step, readings.total_steps)
    parts = [Part([f"epoch {epochs}", ""], [4]), Part([f"step {steps}", steps], [5])]
    if readings.steps_per_second is not None:
        parts.append(Part([speed(readings.steps_per_second), ""], [3], "dim"))
    if readings.activity:
        parts.append(Part([readings.activity, readings.activity.partition(" ")[0], ""], [6, 2], "cyan"))
    parts.append(Part([_time(readings), ""], [1], "cyan"))
    return parts


def _of(count: int, total: int | None) -> str:
    """Return `  605/1,170`, always of the same length; without a total, the count alone."""
    return f"{count:,}" if total is None else f"{count:>{len(f'{total:,}')},}/{total:,}"


def _time(readings: Readings) -> str:
    if readings.is_over:
        return f"in {duration(readings.elapsed_s)}"
    left = readings.left_s
    return f"{duration(readings.elapsed_s)} elapsed" if left is None else f"{duration(left)} left"


def _bar(share: float, width: int, ascii_only: bool) -> Line:
    full, begun, empty = ("=", ">", "-") if ascii_only else ("━", "╸", "━")
    num_full = min(width, int(share * width + 1e-9))
    has_begun = num_full < width and share * width - num_full >= 0.5
    done = full * num_full + (begun if has_begun else "")
    return [(done, "green" if share >= 1 else "cyan"), (empty * (width - len(done)), "bright_black")]


def _values(readings: Readings) -> list[Part]:
    parts = []
    if readings.loss is not None:
        is_finite = abs(readings.loss) < float("inf")  # false for NaN too
        forms = [f"loss {readings.loss:.4g}", f"loss {readings.loss:.2g}"]
        parts.append(Part(forms, [5], "" if is_finite else "bold red"))
    if readings.metric is not None:
        name, value = readings.metric
        parts.append(Part([f"{name} {value:.4g}", f"{name.rpartition('/')[2]} {value:.3g}", ""], [7, 3]))
    if readings.gradients is not None:
        smallest, largest = (short(value, 1) for value in readings.gradients)
        parts.append(Part([f"grad {smallest} … {largest}", ""], [4]))
    if readings.num_nonfinite:
        plural = "s" if readings.num_nonfinite > 1 else ""
        long = f"non-finite in {readings.num_nonfinite:,} layer{plural}"
        parts.append(Part([long, "non-finite", ""], [8, 2], "bold red"))
    if readings.findings is not None:
        parts.append(state_part(readings.findings))
    return parts


def state_part(findings: Sequence[Finding]) -> Part:
    """Return the doctor's state: `healthy`, or the worst finding, its layer and how many more causes there are."""
    causes = [cause for cause, _ in by_cause(findings) if cause.alarms]
    if not causes:
        return Part([HEALTHY], (), "green")
    worst, more = causes[0], f" and {len(causes) - 1} more" if len(causes) > 1 else ""
    kind, style = worst.kind.replace("_", " "), SEVERITY_STYLES.get(worst.severity, ALARM_STYLE)
    if worst.layer is None:
        return Part([f"{kind}{more}", kind], [6], style)
    index = worst.layer.partition(".")[0]
    forms = [f"{kind} in {worst.layer}{more}", f"{kind} in {index}…{more}", f"{kind} in {index}…", kind]
    return Part(forms, [9, 6, 1], style)
