"""What DeepFD's authors published of four tools on the 52 subjects (`published.csv`)."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

TOOLS = ("umlaut", "autotrainer", "deeplocalize", "deepfd")


@dataclass(frozen=True)
class Row:
    """One subject of the publication.

    Attributes:
        number: 1 to 52.
        source: Where DeepFD's authors have it from.
        post: Number of the question on Stack Overflow, or name of the repository on GitHub.
        faults: Types of the published label.
        detected: By tool, whether it reported a fault (for a program without one: whether it reported none).
        named: By tool, whether one of its reports names a fault of the label.
    """

    number: int
    source: str
    post: str
    faults: tuple[str, ...]
    detected: dict[str, bool]
    named: dict[str, bool]


@cache
def read_published() -> dict[int, Row]:
    """Return the rows by number."""
    with Path(__file__).with_name("published.csv").open(newline="") as file:
        return {int(row["no"]): _row(row) for row in csv.DictReader(file)}


def _row(row: dict[str, str]) -> Row:
    return Row(
        int(row["no"]),
        row["source"],
        row["post"],
        tuple(row["fault_types"].split(", ")),
        {tool: row[f"detected_{tool}"] == "1" for tool in TOOLS},
        {tool: row[f"cause_{tool}"] == "1" for tool in TOOLS},
    )
