"""The live table: a row for each layer with the size of its gradient as a bar on a logarithmic axis."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stabletrain.training.display.layer_states import OK, LayerStates
from stabletrain.training.display.lines import Line
from stabletrain.training.display.numbers import short, shorten
from stabletrain.training.display.readings import Readings
from stabletrain.training.display.status_lines import status_lines
from stabletrain.vocabulary.finding import CRITICAL, INFO, WARNING

MIN_ROWS = 3
OTHER_LINES = 7  # two of status, an empty one, the heading, the number of hidden layers, and room for a message
MIN_BAR, MAX_BAR = 8, 40
NUMBER = 7  # characters of `3.1e-14`
MAX_NAME_SHARE = 0.35  # of the width
EIGHTHS = " ▏▎▍▌▋▊▉"
ARROWS = {-1: "↘", 0: "→", 1: "↗"}
ASCII_ARROWS = {-1: "\\", 0: "-", 1: "/"}
STYLES = {CRITICAL: "red", WARNING: "yellow", INFO: "green"}


@dataclass(frozen=True)
class Columns:
    """Widths of the columns in characters; 0 for one that is left out."""

    name: int
    bar: int
    update: int
    state: int


def live_lines(readings: Readings, table: LayerStates | None, width: int, height: int, ascii_only: bool) -> list[Line]:
    """Return the lines of the whole live view: progress, values, and the table if layers were measured."""
    lines = status_lines(readings, width, ascii_only)
    if table is not None and len(table.layers):
        lines += [[], *table_lines(table, width, max(MIN_ROWS, height - OTHER_LINES), ascii_only)]
    return lines


def table_lines(table: LayerStates, width: int, num_rows: int, ascii_only: bool = False) -> list[Line]:
    """Return the heading, at most `num_rows` rows, and a line that says how many layers are hidden."""
    shown = table.choose(num_rows)
    columns = _columns(table, shown, width)
    lines = [_heading(table, columns), *(_row(table, i, columns, ascii_only) for i in shown)]
    hidden = sorted(set(range(len(table.layers))) - set(shown))
    return [*lines, _hidden(table, hidden)] if hidden else lines


def _columns(table: LayerStates, shown: Sequence[int], width: int) -> Columns:
    longest = max(len(table.layers[i]) for i in shown)
    name = min(longest, max(8, int(MAX_NAME_SHARE * width)))
    state = max(len("state"), *(len(table.state(i).word) for i in shown))
    update = NUMBER + 2 if any(table.layers[i] in table.updates for i in shown) else 0
    bar = width - name - NUMBER - state - 1 - 4 * 2  # the trend has one character, and there are four gaps
    if bar - update < MIN_BAR:
        update = 0
    return Columns(name, max(0, min(MAX_BAR, bar - update)), update, state)


def _heading(table: LayerStates, columns: Columns) -> Line:
    low, high = (f"1e{limit}" for limit in table.limits)
    axis = f"{low}{high:>{columns.bar - len(low)}}" if columns.bar >= len(low) + len(high) else " " * columns.bar
    update = f"{'update':>{columns.update - 2}}  " if columns.update else ""
    return [(f"{'layer':<{columns.name}}  {'rms':>{NUMBER}}  {axis}     {update}state", "dim")]


def _row(table: LayerStates, place: int, columns: Columns, ascii_only: bool) -> Line:
    layer, state = table.layers[place], table.state(place)
    rms = float(table.rms[place])
    number = short(None if np.isnan(rms) else rms)
    arrow = (ASCII_ARROWS if ascii_only else ARROWS)[int(table.trends[place])] if rms > 0 else " "
    update = ""
    if columns.update:
        update = f"{short(table.updates[layer]) if layer in table.updates else '':>{columns.update - 2}}  "
    style = STYLES[state.severity]
    return [
        (f"{shorten(layer, columns.name):<{columns.name}}  ", ""),
        (f"{number:>{NUMBER}}  ", "bold" if state.severity != INFO else ""),
        (_bar(table.share(place), columns.bar, ascii_only) if rms > 0 else " " * columns.bar, style),
        (f"  {arrow}  {update}", "dim"),
        (state.word, style if state.word == OK or state.severity != INFO else "dim"),
    ]


def _bar(share: float, width: int, ascii_only: bool) -> str:
    if ascii_only:
        return f"{'#' * max(1, round(share * width)):<{width}}"
    full, eighths = divmod(max(1, round(share * width * 8)), 8)
    return f"{'█' * full}{EIGHTHS[eighths] if eighths else '':<{width - full}}"


def _hidden(table: LayerStates, hidden: Sequence[int]) -> Line:
    words = Counter(table.state(i).word for i in hidden)
    kinds = ", ".join(f"{count:,} {word}" for word, count in words.most_common())
    sizes = table.rms[list(hidden)]
    sizes = sizes[np.isfinite(sizes)]
    between = f", rms {short(sizes.min(), 1)} … {short(sizes.max(), 1)}" if len(sizes) else ""
    plural = "s" if len(hidden) > 1 else ""
    return [(f"{len(hidden):,} more layer{plural}{between}: {kinds}", "dim")]
