"""Reads JSON lines: one object per line with the numbers of a step."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from stabletrain.record.foreign_logs.cells import Clock, number_of
from stabletrain.record.foreign_logs.columns import Columns
from stabletrain.record.foreign_logs.log import ForeignLog, make_log
from stabletrain.record.foreign_logs.text_lines import lines_of
from stabletrain.vocabulary.log_format import LogFormat

JSON_LINES = LogFormat("JSON lines")
MAX_DEPTH = 3  # of objects within objects, whose keys are joined by a slash
MIN_GAP = 1  # rows in which a number is null to the end to count as NaN


def read_json_lines(path: Path, loss: str | None = None) -> ForeignLog:
    """Return the numbers of a file. Lines that are no object, such as a half-written last one, are left out.

    Args:
        path: The file.
        loss: Key of the training's loss; None to recognize it by its name.
    """
    columns, num_skipped = Columns(loss), 0
    clock = Clock()
    for index, line in enumerate(lines_of(path)):
        fields = parse_object(line)
        if fields is None:
            num_skipped += bool(line.strip())
        else:
            add_object(columns, clock, index, fields)
    columns.close(MIN_GAP)
    notes = [f"Incomplete, or no JSON objects: {num_skipped:,} lines."] if num_skipped else []
    return make_log(path, JSON_LINES, columns, notes=notes)


def add_object(columns: Columns, clock: Clock, index: int, fields: Mapping[str, Any]) -> None:
    """Add the numbers of an object as a row."""
    numbers = dict(numbers_of(fields))
    columns.add_row(numbers, clock.place(index, numbers))


def numbers_of(fields: Mapping[str, Any], prefix: str = "", depth: int = 1) -> Iterator[tuple[str, float | None]]:
    """Yield the numbers in an object by key, those of objects within as `outer/inner`; text and lists are left out."""
    for key, value in fields.items():
        if isinstance(value, Mapping):
            if depth < MAX_DEPTH:
                yield from numbers_of(value, f"{prefix}{key}/", depth + 1)
            continue
        try:
            yield f"{prefix}{key}", number_of(value)
        except ValueError:
            continue


def parse_object(line: str) -> dict[str, Any] | None:
    """Return the object on a line; None if there is none."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
