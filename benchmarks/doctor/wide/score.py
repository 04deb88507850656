"""Score the doctor on the recordings of the wide part, made with `st.Doctor(model)` alone and told everything.

    python -m benchmarks.doctor.wide.score --folder FOLDER [--part PART]

Prints the tables of docs/doctor_wide.md, then each error by case. Of the reporting part only figures are printed,
unless `--errors` asks for more: reading them makes it a part that rules are tuned on.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.doctor.labels import BUGGY, HEALTHY, Label, read_labels
from benchmarks.doctor.wide.case import PARTS, Case
from benchmarks.doctor.wide.cases import make_cases
from benchmarks.doctor.wide.label import LABELS
from benchmarks.doctor.wide.record import LINES, file_name
from stabletrain.diagnosis.doctor import diagnose
from stabletrain.diagnosis.history import load
from stabletrain.diagnosis.observations import Observations
from stabletrain.vocabulary.finding import Finding, worst_first

ALLEGED = (
    *("gradients_accumulate", "not_optimized", "no_gradient", "output_activation", "input_scale", "target_scale"),
    *("shape_mismatch", "wrong_mode"),
)  # kinds that are mistakes in the code
HEADER = (
    "| doctor | unhealthy | found | of them mistakes | right kind first | mistakes named exactly | healthy | "
    "false alarms | mistakes alleged | harmless mistakes | named | other alarms |\n" + "|---" * 12 + "|"
)


@dataclass(frozen=True)
class Score:
    """What the doctor says at the end of a run.

    Attributes:
        kinds: Kinds of its alarms, the cause first.
        noted: Kinds of its findings of severity `info`.
        error: What a rule raised instead; such a run counts as one without an alarm, and is listed as an error.
    """

    kinds: tuple[str, ...]
    noted: tuple[str, ...] = ()
    error: str = ""

    @property
    def first(self) -> str | None:
        """The kind of the first alarm."""
        return self.kinds[0] if self.kinds else None


def score(observations: Iterable[Observations], rules: Callable[[Observations], list[Finding]] = diagnose) -> Score:
    """Return the alarms over the networks of a run, those of each network in the doctor's order."""
    try:
        said = [rules(seen) for seen in observations]
    except ArithmeticError as error:
        return Score((), error=repr(error))
    found = [[f for f in findings if f.alarms] for findings in said]
    if len(found) > 1:  # the network with the worst first finding speaks first
        found.sort(key=lambda fs: (-_weight(fs[0]), fs[0].first_step) if fs else (1, 0))
    noted = tuple(f.kind for findings in said for f in findings if not f.alarms)
    return Score(tuple(f.kind for fs in found for f in fs), noted)


def _weight(finding: Finding) -> int:
    return 1 + int(worst_first([finding])[0].severity == "critical")


def is_right(case: Case, found: Score) -> bool:
    """Whether the first alarm names the fault, or what it leads to."""
    assert case.fault is not None
    return found.first in (*case.fault.exact, *case.fault.also)


def is_named(case: Case, found: Score) -> bool:
    """Whether any alarm names the mistake exactly."""
    assert case.fault is not None
    return bool(set(case.fault.exact) & set(found.kinds))


def is_noted(case: Case, found: Score) -> bool:
    """Whether a finding of severity `info` names the fault exactly, and no alarm does."""
    assert case.fault is not None
    return not is_named(case, found) and bool(set(case.fault.exact) & set(found.noted))


def share(values: Iterable[bool]) -> str:
    """Return a share with its counts."""
    seen = list(values)
    return f"{100 * sum(seen) / len(seen):.1f}% ({sum(seen)} of {len(seen)})" if seen else "–"


def format_row(line: str, cases: Sequence[Case], labels: Mapping[str, Label], scores: Mapping[str, Score]) -> str:
    """Return a row of the table."""
    known = [c for c in cases if c.name in scores]
    buggy = [c for c in known if labels[c.name].word == BUGGY]
    faulty = [c for c in buggy if c.fault]
    mistakes = [c for c in faulty if c.is_mistake]
    healthy = [c for c in known if labels[c.name].word == HEALTHY and not c.is_mistake]
    harmless = [c for c in known if labels[c.name].word == HEALTHY and c.is_mistake]
    cells = (
        len(buggy),
        share(bool(scores[c.name].kinds) for c in buggy),
        share(bool(scores[c.name].kinds) for c in mistakes),
        share(is_right(c, scores[c.name]) for c in faulty if scores[c.name].kinds),
        share(is_named(c, scores[c.name]) for c in mistakes),
        len(healthy),
        share(bool(scores[c.name].kinds) for c in healthy),
        share(bool(set(scores[c.name].kinds) & set(ALLEGED)) for c in healthy),
        len(harmless),
        share(is_named(c, scores[c.name]) for c in harmless),
        share(bool(set(scores[c.name].kinds) - set(_exact(c))) for c in harmless),
    )
    return f"| {line} | " + " | ".join(map(str, cells)) + " |"


def _exact(case: Case) -> tuple[str, ...]:
    return case.fault.exact if case.fault else ()


def errors(cases: Sequence[Case], labels: Mapping[str, Label], scores: Mapping[str, Score]) -> list[str]:
    """Return a line for each error."""
    lines = []
    for case in cases:
        if case.name not in scores:
            continue
        found, label = scores[case.name], labels[case.name]
        said = ", ".join(found.kinds) or "nothing"
        said += f"; noted {', '.join(found.noted)}" if found.noted else ""
        outcome = f"points {label.points} of {label.reference}"
        if found.error:
            lines.append(f"- a rule raised: {case.name}: {found.error}")
        elif label.word == HEALTHY and case.is_mistake:
            if not is_named(case, found):
                lines.append(f"- harmless, not named: {case.name}: {said}")
        elif label.word == HEALTHY and found.kinds:
            lines.append(f"- false alarm: {case.name}: {said}; {outcome}")
        elif label.word == BUGGY and not found.kinds:
            lines.append(f"- missed: {case.name}: {said}; {outcome}")
        elif label.word == BUGGY and case.fault and not is_right(case, found):
            lines.append(f"- wrong kind: {case.name}: {said}; expected {' or '.join(_exact(case))}")
        elif label.word == BUGGY and case.is_mistake and not is_named(case, found):
            lines.append(f"- not named: {case.name}: {said}; expected {' or '.join(_exact(case))}")
    return sorted(lines)


def by_fault(cases: Sequence[Case], labels: Mapping[str, Label], scores: Mapping[str, Score]) -> list[str]:
    """Return a table with a row for each fault: unhealthy runs, and what was said of them."""
    lines = ["| fault | unhealthy | found | right kind first | named exactly | noted only | first finding |"]
    lines.append("|---" * 7 + "|")
    buggy = [c for c in cases if c.name in scores and c.fault and labels[c.name].word == BUGGY]
    for fault in sorted({type(c.fault).__name__ for c in buggy}):
        rows = [c for c in buggy if type(c.fault).__name__ == fault]
        counts = (
            sum(bool(scores[c.name].kinds) for c in rows),
            sum(is_right(c, scores[c.name]) for c in rows),
            sum(is_named(c, scores[c.name]) for c in rows),
            sum(is_noted(c, scores[c.name]) for c in rows),
        )
        kinds = Counter(scores[c.name].first or "nothing" for c in rows).most_common()
        said = ", ".join(f"{kind} {count}" for kind, count in kinds)
        lines.append(f"| {fault} | {len(rows)} | " + " | ".join(map(str, counts)) + f" | {said} |")
    return lines


def read_scores(cases: Iterable[Case], labels: Mapping[str, Label], line: str, folder: Path) -> dict[str, Score]:
    """Return the scores of the cases that are recorded."""
    found = {}
    for case in cases:
        seed = labels[case.name].seed
        facts = folder / f"{case.digest}-{seed}-{line}.json"
        if facts.is_file():
            networks = json.loads(facts.read_text())["networks"]
            found[case.name] = score(load(folder / file_name(case, seed, line, network)) for network in networks)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="folder of the recordings")
    parser.add_argument("--part", choices=PARTS, action="append", help="only this part")
    parser.add_argument("--errors", action="store_true", help="the errors of the reporting part too")
    options = parser.parse_args()
    labels = read_labels(LABELS)
    for part in options.part or PARTS:
        cases = [c for c in make_cases() if c.part == part and c.name in labels]
        scores = {line: read_scores(cases, labels, line, options.folder) for line in LINES}
        print(f"\n{part} part\n\n{HEADER}")
        for line, found in scores.items():
            print(format_row(line, cases, labels, found))
        for line, found in scores.items() if part != "reporting" or options.errors else ():
            print(f"\n{line}, by fault:\n", *by_fault(cases, labels, found), sep="\n")
            print(f"\n{line}, errors:\n", *(errors(cases, labels, found) or ["no errors"]), sep="\n")


if __name__ == "__main__":
    main()
