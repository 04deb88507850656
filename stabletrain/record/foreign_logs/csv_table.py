"""Reads a table: `metrics.csv` of Lightning's CSVLogger, Keras' CSVLogger, or any csv file with one row per step."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator
from pathlib import Path

from stabletrain.record.foreign_logs.cells import Clock, is_clock, number_of
from stabletrain.record.foreign_logs.columns import Columns
from stabletrain.record.foreign_logs.log import ForeignLog, make_log
from stabletrain.record.foreign_logs.text_lines import lines_of
from stabletrain.vocabulary import clients
from stabletrain.vocabulary.log_format import LogFormat

LIGHTNING = LogFormat(
    "Lightning's CSVLogger",
    client=clients.LIGHTNING,
    recorder="pl.Trainer(callbacks=[st.callbacks.Doctor()])",
    often="pl.Trainer(log_every_n_steps=1)",
)
CSV = LogFormat("csv table")
DELIMITERS = (",", ";", "\t")
MIN_GAP = 2  # rows in which a column must be empty to the end to count as NaN
MARKS = ("__MIN", "__MAX")  # columns that Weights & Biases adds on export


def read_csv(path: Path, loss: str | None = None) -> ForeignLog:
    """Return the numbers of a table with a header. A half-written last row is left out.

    Args:
        path: The file.
        loss: Name of the column with the training's loss; None to recognize it by its name.
    """
    rows = _rows(path)
    header, delimiter = next(rows, ([], ","))
    names = [name.strip() for name in header]
    columns, clock, num_rows, num_skipped = Columns(loss), Clock(), 0, 0
    has_comma = delimiter != ","  # as the decimal point
    places: dict[str, int] = {}
    for i, name in enumerate(names):
        if name and not name.endswith(MARKS):
            places.setdefault(_plain(name), i)  # of several columns of one name, the first one counts
    wanted = {i: name for name, i in places.items()}
    columns.declare(name for name in wanted.values() if not is_clock(name))
    for index, (cells, _) in enumerate(rows):
        if cells == header:  # written again by a resumed run
            continue
        num_rows += 1
        try:
            numbers = {name: number_of(cells[i], has_comma) for i, name in wanted.items()}
        except (IndexError, ValueError):
            numbers = {name: _number_or_none(cells, i, has_comma) for i, name in wanted.items()}
            num_skipped += 1
            if len(cells) < len(names):
                continue
        columns.add_row(numbers, clock.place(index, numbers))
    columns.close(MIN_GAP)
    is_lightning = path.name == "metrics.csv" and {"epoch", "step"} <= {*names}
    notes = (
        [f"Incomplete, or with cells that are no numbers: {num_skipped:,} of {num_rows:,} rows."] if num_skipped else []
    )
    return make_log(path, LIGHTNING if is_lightning else CSV, columns, notes=notes)


def header_of(path: Path) -> list[str]:
    """Return the names in the first row; an empty list if it is no header."""
    header, _ = next(_rows(path), ([], ","))
    return [] if all(_is_number(name) for name in header) else [name.strip() for name in header]


def _rows(path: Path) -> Iterator[tuple[list[str], str]]:
    """Yield the cells of each row and the delimiter. Empty lines and comments are left out."""
    lines = (line for line in lines_of(path) if line.strip() and not line.startswith("#"))
    first = next(lines, None)
    if first is None:
        return
    delimiter = max(DELIMITERS, key=first.count)
    rows = csv.reader(itertools.chain([first], lines), delimiter=delimiter)
    while True:
        try:
            yield next(rows), delimiter
        except StopIteration:
            return
        except csv.Error:  # a cell of more than 131,072 characters
            yield [], delimiter


def _plain(name: str) -> str:
    """Return the name without the run's that Weights & Biases puts before it: `run - train/loss`."""
    return name.rpartition(" - ")[2] if " - " in name else name


def _number_or_none(cells: list[str], index: int, decimal_comma: bool) -> float | None:
    try:
        return number_of(cells[index], decimal_comma)
    except (IndexError, ValueError):
        return None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return not text.strip()
    return True
