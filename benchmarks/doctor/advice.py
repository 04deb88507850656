"""Measure whether the doctor's advice works: apply exactly what it says first, and train again.

    python -m benchmarks.doctor.advice --folder FOLDER --part tuning --sample 40

Each buggy case is recorded (if it is not in FOLDER) and diagnosed. The first and the second remedy of its first finding
and a random remedy of the catalogue are applied to the case, which trains again unwatched on up to three seeds: two
that agree decide. With `--catalogue`, the other remedies follow until one fixes it, which shows what can be fixed at
all. Results are kept in FOLDER/advice, so that the command can be interrupted and repeated. Of the reporting part, no
run is named: nobody is to tune on it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median_low

import torch

from benchmarks.doctor.advice_tables import FIXED, IMPROVED, NOTHING, OUTCOMES, UNCHANGED, WORSE, Row, print_tables
from benchmarks.doctor.case import PARTS, Case
from benchmarks.doctor.cases import make_cases
from benchmarks.doctor.composition import choices_of
from benchmarks.doctor.label import begin_worker, or_none
from benchmarks.doctor.labels import BUGGY, HEALTHY_POINTS, LOST, Label, read_labels
from benchmarks.doctor.record import file_name, record
from benchmarks.doctor.treatment import treat, undoes_event
from stabletrain.diagnosis.circumstances import circumstances_of
from stabletrain.diagnosis.doctor import diagnose
from stabletrain.diagnosis.history import load
from stabletrain.diagnosis.observations import Observations
from stabletrain.diagnosis.remedies import remedies_for
from stabletrain.vocabulary.finding import Finding
from stabletrain.vocabulary.kinds import KINDS

NUM_SEEDS = 3
REPORTING = PARTS[-1]
MUCH = 10.0  # points: a smaller change for the better is none


class Trials:
    """Trains treated cases, and remembers the points."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def points(self, case: Case, override: str, finding: Finding | None, seed: int) -> float:
        """Return the points of a case with a remedy, NaN if they are not finite; -1 stands for NaN on disk."""
        treatment = treat(case, override, finding)
        more = ["lr_find"] if treatment.finds_lr else []
        key = json.dumps([treatment.case.digest, treatment.init, treatment.clip, seed, *more])
        path = self.folder / f"{hashlib.sha256(key.encode()).hexdigest()[:20]}.json"
        if not path.is_file():
            points = treatment.make_run(seed)()
            path.write_text(json.dumps({"name": case.name, "override": override, "points": or_none(points)}))
        found = json.loads(path.read_text())["points"]
        return math.nan if found is None else found

    def outcome(self, case: Case, label: Label, override: str, finding: Finding | None) -> str:
        """Return what a remedy does to a case, judged by the median of three seeds."""
        if not override and not undoes_event(finding):
            return NOTHING
        if not treat(case, override, finding).is_applied:
            return UNCHANGED
        before = median_low(LOST if p is None else p for p in label.points)
        words: list[str] = []
        for seed in case.seeds[:NUM_SEEDS]:
            words.append(outcome_of(self.points(case, override, finding, seed), before, label.reference or 0.0))
            if len(words) == 2 and words[0] == words[1]:
                break
        return sorted(words, key=OUTCOMES.index)[len(words) // 2]


def outcome_of(points: float, before: float, reference: float) -> str:
    """Return what a change from `before` to `points` is; NaN and -1 are worse than any number."""
    points = LOST if math.isnan(points) else points
    if points >= reference - HEALTHY_POINTS:
        return FIXED
    if points >= before + MUCH:
        return IMPROVED
    return WORSE if points < before - HEALTHY_POINTS else UNCHANGED


def first_finding(findings: Sequence[Finding]) -> Finding | None:
    """Return the first alarm."""
    return next((finding for finding in findings if finding.alarms), None)


def catalogue_of(observations: Observations) -> list[str]:
    """Return every remedy that any kind of finding would propose for this run, sorted."""
    about = circumstances_of(observations)
    found = {
        remedy.override
        for kind in KINDS
        for remedy in remedies_for(Finding(kind, "critical", None, 0, 0, {}), about)
        if remedy.override != "lr_find=true"  # a search, not a remedy
    }
    return sorted(found)


def examine(case: Case, label: Label, folder: Path, trials: Trials, *, catalogue: bool) -> Row:
    """Return what became of a case with the doctor's advice."""
    path = folder / file_name(case, label.seed)
    if not path.is_file():
        record((case, label.seed, folder, False))
    observations = load(path)
    about = replace(observations.about, choices=choices_of(case))
    observations = replace(observations, about=about)
    finding = first_finding(diagnose(observations))
    said = tuple(finding.overrides[:2]) if finding else ()
    first, second = (trials.outcome(case, label, o, finding) for o in (*said, "", "")[:2])
    known = catalogue_of(observations)
    chosen = known[int(case.digest, 16) % len(known)]
    chance = trials.outcome(case, label, chosen, None)
    tried = {chosen: chance, **dict(zip(said, (first, second), strict=False))}
    by = next((o for o, word in tried.items() if word == FIXED), "")
    if catalogue and not by:
        by = next((o for o in known if o not in tried and trials.outcome(case, label, o, None) == FIXED), "")
    removes_event = case.event is not None and undoes_event(finding)
    return Row(case, finding.kind if finding else "", said, first, second, chance, by, removes_event)


def sample(cases: Iterable[Case], count: int | None) -> list[Case]:
    """Return `count` cases, the same ones each time and spread over the families; all without a count."""
    by_family: dict[str, list[Case]] = defaultdict(list)
    for case in sorted(cases, key=lambda c: c.digest):
        by_family[case.family].append(case)
    places = [(i / len(found), case.digest, case) for found in by_family.values() for i, case in enumerate(found)]
    return [case for *_, case in sorted(places, key=lambda x: x[:2])][:count]


def line_of(row: Row) -> str:
    """Return what became of a case, in one line."""
    said = " | ".join(f"{o}: {word}" for o, word in zip(row.remedies, (row.first, row.second), strict=False))
    return f"{row.case.name} {row.kind or 'nothing'}: {said} (random: {row.chance}; fixed by {row.by or '-'})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="folder of the recordings")
    parser.add_argument("--part", choices=PARTS, default="tuning")
    parser.add_argument("--sample", type=int, help="so many cases only, spread over the families")
    parser.add_argument("--catalogue", action="store_true", help="find out which runs any remedy fixes")
    options = parser.parse_args()
    begin_worker()
    torch.set_num_threads(1)
    options.folder.mkdir(parents=True, exist_ok=True)
    labels, trials, rows = read_labels(), Trials(options.folder / "advice"), []
    cases = [case for case in make_cases() if case.part == options.part and labels[case.name].word == BUGGY]
    for case in sample(cases, options.sample):
        row = examine(case, labels[case.name], options.folder, trials, catalogue=options.catalogue)
        rows.append(row)
        print(f"{len(rows)} runs" if options.part == REPORTING else line_of(row), flush=True)
    print_tables(rows, catalogue=options.catalogue)


if __name__ == "__main__":
    main()
