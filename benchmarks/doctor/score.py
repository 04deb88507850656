"""Score stabletrain's rules and published ones on the recordings: recall, false alarms, and how early they alarm.

    python -m benchmarks.doctor.score --folder FOLDER
    python -m benchmarks.doctor.score --folder ANOTHER --bare

Prints the tables of docs/doctor_benchmark.md, followed by the errors of stabletrain's rules by case.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.doctor.case import PARTS, Case
from benchmarks.doctor.cases import make_cases
from benchmarks.doctor.labels import BUGGY, HEALTHY, Label, read_labels, seeds_of
from benchmarks.doctor.presets import PRESETS
from stabletrain.diagnosis.doctor import diagnose
from stabletrain.diagnosis.history import load
from stabletrain.diagnosis.observations import Observations
from stabletrain.vocabulary.finding import Finding

Rules = Callable[[Observations], list[Finding]]
OURS = "stabletrain"
RULES: dict[str, Rules] = {OURS: diagnose, **PRESETS}
EARLY_SHARES = (0.02, 0.05, *(i / 10 for i in range(1, 11)))  # of the budget, for faults from the beginning on
EVERY = 5  # steps, after a fault in the middle of a run
NEAR = 20  # steps from the fault that count as the right time


@dataclass(frozen=True)
class Score:
    """The result of a set of rules on one recording.

    Attributes:
        kind: Kind of the first alarm at the end; None without one.
        layer: Its layer.
        first_step: Its first step.
        detected: First step with an alarm, if evaluated.
        is_early: Whether there was an alarm before the fault.
        kinds: Kinds of all alarms at the end.
    """

    kind: str | None
    layer: str | None
    first_step: int
    detected: int | None
    is_early: bool
    kinds: tuple[str, ...]


class Untold(Observations):
    """Observations of a doctor that was not told the number of steps: only at the end it judges by what is reached."""

    def until(self, step: int) -> Observations:
        """Return what was known once `step` was done."""
        cut = super().until(step)
        return replace(cut, about=replace(cut.about, num_steps=None))


def alarms(findings: Iterable[Finding]) -> list[Finding]:
    """Return the findings above `info`, in order."""
    return [finding for finding in findings if finding.alarms]


def score(case: Case, observations: Observations, rules: Rules) -> Score:
    """Return the result of the rules at the end of a recording, and the step of their first alarm."""
    found = alarms(rules(observations))
    is_early = case.event is not None and bool(alarms(rules(observations.until(case.event.step - 1))))
    detected = first_alarm(case, observations, rules)
    first = found[0] if found else None
    return Score(
        first.kind if first else None,
        first.layer if first else None,
        first.first_step if first else -1,
        detected,
        is_early,
        tuple(finding.kind for finding in found),
    )


def first_alarm(case: Case, observations: Observations, rules: Rules) -> int | None:
    """Return the first evaluated step with an alarm."""
    return next((s for s in looks(case) if alarms(rules(observations.until(s)))), None)


def looks(case: Case) -> list[int]:
    """Return the steps at which the rules are evaluated: densely after a fault, else at fractions of the budget."""
    num_steps = case.training.num_steps
    shares = [max(0, round(share * num_steps) - 1) for share in EARLY_SHARES]
    if case.event is None:
        return shares
    close = range(case.event.step, min(case.event.step + 2 * NEAR, num_steps), EVERY)
    return sorted({*close, *(s for s in shares if s > case.event.step)})


def is_right_place(case: Case, found: Score) -> bool | None:
    """Return whether the layer or the time is right; None if the case has neither."""
    if case.event is not None:
        return abs(found.first_step - case.event.step) <= NEAR
    if not case.expected.paths:
        return None
    path = (found.layer or "").partition(".")[2] if (found.layer or "").startswith("L") else found.layer or ""
    return any(path == p or path.startswith(f"{p}.") for p in case.expected.paths)


def delay(case: Case, found: Score) -> float:
    """Return the fraction of the budget until the first alarm, or the steps since the fault; inf for never."""
    if found.detected is None or found.is_early:
        return np.inf
    if case.event is not None:
        return found.detected - case.event.step
    return (found.detected + 1) / case.training.num_steps


@dataclass(frozen=True)
class Row:
    """The scores of one set of rules on one part."""

    num_buggy: int
    num_healthy: int
    num_hard: int
    recall: float
    false_alarms: float
    hard_alarms: float
    passing_alarms: float
    right_kind: float
    right_place: float
    share_until: float
    steps_until: float


def summarize(cases: Sequence[Case], labels: Mapping[str, Label], scores: Mapping[str, Score]) -> Row:
    """Return the scores over some cases; right kind and place are fractions of the buggy runs with an alarm."""
    buggy = [c for c in cases if labels[c.name].word == BUGGY]
    healthy = [c for c in cases if labels[c.name].word == HEALTHY]
    hard = [c for c in healthy if c.family != "plain"]
    found = [c for c in buggy if scores[c.name].kind]
    kinds = [scores[c.name].kind in c.expected.kinds for c in found if c.expected.kinds]
    places = [right for c in found if (right := is_right_place(c, scores[c.name])) is not None]
    return Row(
        len(buggy),
        len(healthy),
        len(hard),
        _share(bool(scores[c.name].kind) for c in buggy),
        _share(bool(scores[c.name].kind) for c in healthy),
        _share(bool(scores[c.name].kind) for c in hard),
        _share(scores[c.name].detected is not None for c in healthy),
        _share(kinds),
        _share(places),
        _median(delay(c, scores[c.name]) for c in buggy if c.event is None),
        _median(delay(c, scores[c.name]) for c in buggy if c.event is not None),
    )


def _share(flags: Iterable[bool]) -> float:
    flags = list(flags)
    return sum(flags) / len(flags) if flags else float("nan")


def _median(values: Iterable[float]) -> float:
    values = list(values)
    return median(values) if values else float("nan")


HEADER = (
    "| rules | recall | false alarms, healthy | of them hard | alarm at any time, healthy | right kind first "
    "| right layer or time | alarm after, fraction of the budget | alarm after, steps from the fault |\n"
    "|---|---|---|---|---|---|---|---|---|"
)


def format_row(name: str, row: Row) -> str:
    """Return a row of the table."""
    shares = (row.recall, row.false_alarms, row.hard_alarms, row.passing_alarms, row.right_kind, row.right_place)
    until = "never" if np.isinf(row.share_until) else f"{100 * row.share_until:.0f}%"
    steps = "never" if np.isinf(row.steps_until) else f"{row.steps_until:.0f}"
    return f"| {name} | " + " | ".join(f"{100 * share:.1f}%" for share in shares) + f" | {until} | {steps} |"


def mistakes(cases: Sequence[Case], labels: Mapping[str, Label], scores: Mapping[str, Score]) -> list[str]:
    """Return a line for each error."""
    lines = []
    for case in cases:
        label, found = labels[case.name], scores[case.name]
        said = (
            f"{', '.join(found.kinds) or 'nothing'}; first in {found.layer or 'no layer'} from step {found.first_step}"
        )
        if label.word == HEALTHY and found.kind:
            lines.append(f"- false alarm: {case.name}: {said}")
        elif label.word == BUGGY and not found.kind:
            lines.append(f"- missed: {case.name}, points {label.points} of {label.reference}")
        elif label.word == BUGGY and case.expected.kinds and found.kind not in case.expected.kinds:
            lines.append(f"- wrong kind: {case.name}: {said}; expected {' or '.join(case.expected.kinds)}")
        elif label.word == BUGGY and is_right_place(case, found) is False:
            place = f"step {case.event.step}" if case.event else " or ".join(case.expected.paths)
            lines.append(f"- wrong place: {case.name}: {said}; expected {place}")
        if label.word == BUGGY and case.event and found.is_early:
            lines.append(f"- alarm before the fault: {case.name}")
    return lines


def read_recordings(
    folder: Path, cases: Iterable[Case], labels: Mapping[str, Label], bare: bool = False
) -> dict[str, Observations]:
    """Return the existing recordings by case; those of a bare doctor know the number of steps only at their end."""
    found = ((case.name, folder / f"{case.digest}-{labels[case.name].seed}.npz") for case in cases)
    recordings = {name: load(path) for name, path in found if path.is_file()}
    return {name: Untold(**vars(x)) for name, x in recordings.items()} if bare else recordings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="folder of the recordings")
    parser.add_argument("--part", choices=PARTS, action="append", help="only this part")
    parser.add_argument("--ours", action="store_true", help="only stabletrain's rules, to tune them")
    parser.add_argument("--seeds", action="store_true", help="stabletrain's rules on all seeds, at the end")
    parser.add_argument("--bare", action="store_true", help="the recordings are those of a bare doctor")
    options = parser.parse_args()
    labels = read_labels()
    cases = [case for case in make_cases() if labels[case.name].word in (BUGGY, HEALTHY)]
    for part in options.part or PARTS:
        chosen = [case for case in cases if case.part == part]
        if options.seeds:
            print_seeds(part, chosen, labels, options.folder)
            continue
        recordings = read_recordings(options.folder, chosen, labels, options.bare)
        chosen = [case for case in chosen if case.name in recordings]
        print_part(part, chosen, labels, recordings, [OURS] if options.ours else list(RULES))


def print_seeds(part: str, cases: Sequence[Case], labels: Mapping[str, Label], folder: Path) -> None:
    """Print recall and false alarms of stabletrain's rules over the recordings of all seeds."""
    counts = {BUGGY: [0, 0], HEALTHY: [0, 0]}
    for case in cases:
        label = labels[case.name]
        paths = [folder / f"{case.digest}-{seed}.npz" for seed in seeds_of(case, label)]
        for path in [path for path in paths if path.is_file()]:
            counts[label.word][0] += 1
            counts[label.word][1] += bool(alarms(diagnose(load(path))))
    (num_buggy, found), (num_healthy, false) = counts.values()
    print(
        f"{part} part, all seeds: {found} of {num_buggy} buggy runs found; alarms on {false} of {num_healthy} healthy"
    )


def print_part(
    part: str,
    cases: Sequence[Case],
    labels: Mapping[str, Label],
    recordings: Mapping[str, Observations],
    names: Sequence[str],
) -> None:
    """Print the table of one part, and the errors of stabletrain's rules."""
    scores = {n: {c.name: score(c, recordings[c.name], RULES[n]) for c in cases} for n in names}
    rows = {name: summarize(cases, labels, scores[name]) for name in names}
    first = next(iter(rows.values()))
    print(f"\n{part} part: {first.num_buggy} buggy, {first.num_healthy} healthy runs, of these {first.num_hard} hard\n")
    print(HEADER)
    for name, row in rows.items():
        print(format_row(name, row))
    print()
    print("\n".join(mistakes(cases, labels, scores[OURS])) or "no errors")


if __name__ == "__main__":
    main()
