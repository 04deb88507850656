"""Labels from outcomes, independent of how a case was built."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median_low
from typing import NamedTuple

from benchmarks.doctor.case import Case

LABELS = Path(__file__).with_name("labels.json")
BUGGY_POINTS = 10.0  # at least so far below the reference
HEALTHY_POINTS = 3.0  # at most so far below it
LEAST_REFERENCE = 30.0  # points that a reference needs: comparing with an unhealthy one shows nothing
BUGGY, HEALTHY, BETWEEN, NO_REFERENCE = "buggy", "healthy", "between", "no reference"
LOST = -1.0  # in place of points that are not finite


class Outcome(NamedTuple):
    """The points of each seed at the end; None if anything was not finite."""

    points: tuple[float | None, ...]

    @property
    def median(self) -> float | None:
        """The median over the seeds; None if that run is not finite, which counts as worse than any other."""
        middle = median_low(LOST if p is None else p for p in self.points)
        return None if middle == LOST else middle


@dataclass(frozen=True)
class Label:
    """The outcome of a case.

    Attributes:
        word: `buggy`, `healthy`, `between` (excluded), or `no reference` (excluded).
        points: Of each seed.
        reference: Median points of the reference.
        seed: The seed to record: the first whose own outcome is that of the case.
    """

    word: str
    points: tuple[float | None, ...]
    reference: float | None
    seed: int


def label_of(points: float | None, reference: float | None) -> str:
    """Return the label for the points, given those of the reference."""
    if reference is None or reference < LEAST_REFERENCE:
        return NO_REFERENCE
    if points is None or points <= reference - BUGGY_POINTS:
        return BUGGY
    return HEALTHY if points >= reference - HEALTHY_POINTS else BETWEEN


def label_all(cases: Sequence[Case], outcomes: Mapping[str, Outcome]) -> dict[str, Label]:
    """Return the label of each case by name. The reference of a case must itself be healthy."""
    references = {case.name: case.reference for case in cases}

    def word_of(name: str) -> str:
        if references[name] != name and word_of(references[name]) != HEALTHY:
            return NO_REFERENCE
        return label_of(outcomes[name].median, outcomes[references[name]].median)

    found = {}
    for case in cases:
        points, reference, word = outcomes[case.name].points, outcomes[case.reference].median, word_of(case.name)
        label = Label(word, points, reference, case.seeds[0])
        found[case.name] = replace(label, seed=next(iter(seeds_of(case, label)), case.seeds[0]))
    return found


def seeds_of(case: Case, label: Label) -> list[int]:
    """Return the seeds whose own outcome is that of the case."""
    pairs = zip(case.seeds, label.points, strict=False)
    return [seed for seed, points in pairs if label_of(points, label.reference) == label.word]


def write_labels(labels: Mapping[str, Label], path: Path = LABELS) -> None:
    """Write one line per case."""
    lines = [f"{json.dumps(name)}: {json.dumps(asdict(label))}" for name, label in sorted(labels.items())]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def read_labels(path: Path = LABELS) -> dict[str, Label]:
    """Return the labels that `write_labels` wrote."""
    return {
        name: Label(x["word"], tuple(x["points"]), x["reference"], x["seed"])
        for name, x in json.loads(path.read_text()).items()
    }
