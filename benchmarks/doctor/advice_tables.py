"""The outcomes of the doctor's advice as tables: by kind, and as shares with their intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.doctor.case import Case

FIXED, IMPROVED, UNCHANGED, WORSE, NOTHING = "fixed", "improved", "unchanged", "worse", "no advice"
OUTCOMES = (FIXED, IMPROVED, UNCHANGED, WORSE, NOTHING)
Z = 1.96  # of a 95% interval


@dataclass(frozen=True)
class Row:
    """What became of one case.

    Attributes:
        case: The case.
        kind: Kind of the first finding; "" if nothing was found.
        remedies: The first two remedies.
        first, second, chance: Outcome of the first and the second remedy, and of a random one of the catalogue.
        by: A remedy that fixes it; "" if none is known.
        removes_event: Whether to follow the advice means to leave out what happened in the middle of the run.
    """

    case: Case
    kind: str
    remedies: tuple[str, ...]
    first: str
    second: str
    chance: str
    by: str = ""
    removes_event: bool = False

    @property
    def best(self) -> str:
        """The better outcome of the first two remedies."""
        return min((self.first, self.second), key=OUTCOMES.index)


def print_tables(rows: Sequence[Row], *, catalogue: bool) -> None:
    """Print the outcomes by kind, and the shares; runs whose event the advice removes are counted apart."""
    print("\n| kind of the first finding | runs | fixed | improved | unchanged | worse | no advice | first two fix |")
    print("|---|---|---|---|---|---|---|---|")
    kinds = sorted({row.kind for row in rows}, key=lambda kind: -sum(row.kind == kind for row in rows))
    groups = [(kind or "nothing found", [row for row in rows if row.kind == kind]) for kind in kinds]
    for name, found in [*groups, ("all", rows)]:
        counts = [sum(row.first == word for row in found) for word in OUTCOMES]
        both = sum(row.best == FIXED for row in found)
        print(f"| {name} | {len(found)} | {' | '.join(map(str, counts))} | {both} |")
    removed = [row for row in rows if row.removes_event]
    others = [row for row in rows if not row.removes_event]
    print_shares("runs whose advice is to undo what happened in the middle", removed)
    print_shares("other runs", others)
    if catalogue:
        print_shares("other runs that some remedy of the catalogue fixes", [row for row in others if row.by])


def print_shares(name: str, rows: Sequence[Row]) -> None:
    """Print how many runs each choice of a remedy fixes and makes worse, with 95% intervals."""
    print(f"\n{len(rows)} {name}:")
    choices = {
        "first remedy": [row.first for row in rows],
        "one of the first two": [row.best for row in rows],
        "random remedy": [row.chance for row in rows],
    }
    for choice, words in choices.items() if rows else ():
        print(f"- {choice}: fixed {share(words, FIXED)}, worse {share(words, WORSE)}")


def share(words: Sequence[str], word: str) -> str:
    """Return the share of a word as a percentage, with its interval."""
    count, total = words.count(word), len(words)
    low, high = interval(count, total)
    return f"{count} of {total}, {count / total:.0%} ({100 * low:.0f} to {100 * high:.0f})"


def interval(count: int, total: int) -> tuple[float, float]:
    """Return the 95% interval of a share (Wilson 1927)."""
    share, spread = count / total, Z * Z / total
    middle = share + spread / 2
    half = Z * math.sqrt((share * (1 - share) + spread / 4) / total)
    return max(0.0, (middle - half) / (1 + spread)), min(1.0, (middle + half) / (1 + spread))
