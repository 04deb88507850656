"""Score the doctor on the rebuilt programs, beside the four published tools.

    python -m benchmarks.doctor.public.score [--half tuning|published] [--bare] [NUMBER …]

Prints a table by subject, the totals, and with `--half tuning` what the doctor said.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import torch

from benchmarks.doctor.public.advice import carry_out, first_clause
from benchmarks.doctor.public.outcomes import SEEDS, Outcome, read_outcomes
from benchmarks.doctor.public.program import Program
from benchmarks.doctor.public.published import TOOLS, Row, read_published
from benchmarks.doctor.public.subject import INFERRED, Subject
from benchmarks.doctor.public.subjects import PUBLISHED, SUBJECTS, TUNING, half
from benchmarks.doctor.public.train import BARE, TOLD, train
from stabletrain.vocabulary.finding import Finding

HEADINGS = {"umlaut": "UMLAUT", "autotrainer": "AutoTrainer", "deeplocalize": "DeepLocalize", "deepfd": "DeepFD"}


@dataclass(frozen=True)
class Score:
    """What the doctor said of a subject, and what came of it.

    Attributes:
        subject: The subject.
        outcome: Its points.
        kinds: Kinds of the alarms on the broken program, first the cause.
        says: What the first finding says to do in code.
        remedied: Points by seed of the program as the advice changes it; None if it cannot be carried out.
        planned: The same with the advice of all findings that follow from no other one.
        false_alarms: Kinds of the alarms on the fixed program.
    """

    subject: Subject
    outcome: Outcome
    kinds: tuple[str, ...]
    says: str
    remedied: tuple[float, ...] | None
    planned: tuple[float, ...] | None
    false_alarms: tuple[str, ...]

    @property
    def is_faulty(self) -> bool:
        """Whether the rebuilt program suffers from its fault."""
        return self.outcome.has_effect

    @property
    def names_first(self) -> bool:
        """Whether the first alarm names a cause."""
        return bool(self.kinds) and self.kinds[0] in self._causes

    @property
    def names_any(self) -> bool:
        """Whether any alarm names a cause, as the published tools are scored."""
        return bool(self._causes & set(self.kinds))

    @property
    def names_by_label(self) -> bool:
        """Whether any alarm names a cause of the published label."""
        return bool(set(self.subject.causes) & set(self.kinds))

    @property
    def fixes(self) -> bool:
        """Whether the advice, carried out, gives what the fixed program gives."""
        return self.remedied is not None and self.outcome.mends(list(self.remedied))

    @property
    def plan_fixes(self) -> bool:
        """Whether the advice of all causes, carried out, does."""
        return self.planned is not None and self.outcome.mends(list(self.planned))

    @property
    def improves(self) -> bool:
        """Whether the advice, carried out, gives more than 3 points more than the broken program."""
        return self.remedied is not None and median(self.remedied) > median(self.outcome.broken) + 3

    @property
    def _causes(self) -> set[str]:
        return {*self.subject.causes, *self.subject.beyond}


def score(subject: Subject, watch: str) -> Score:
    """Watch the broken and the fixed program on the first seed, and carry out the advice on all seeds."""
    broken = _alarms(subject, "broken", watch)
    mended = _alarms(subject, "mended", watch)
    outcome = read_outcomes()[subject.number]
    changed = carry_out(subject.broken, broken[0]) if broken else None
    remedied = _points(changed, outcome)
    planned = subject.broken
    for finding in broken:
        if finding.because_of is None:
            planned = carry_out(planned, finding) or planned
    is_new = planned not in (subject.broken, changed)
    return Score(
        subject,
        outcome,
        tuple(finding.kind for finding in broken),
        first_clause(broken[0]) if broken else "",
        remedied,
        _points(planned, outcome) if is_new else remedied,
        tuple(finding.kind for finding in mended),
    )


def _points(program: Program | None, outcome: Outcome) -> tuple[float, ...] | None:
    """Return a program's points by seed, of as many seeds as decide whether their median is that of a fixed one."""
    if program is None:
        return None
    points: list[float] = []
    for seed in SEEDS:
        points.append(round(train(program, seed).points, 1))
        if len(points) == 2 and outcome.mends(points[:1]) == outcome.mends(points[1:]):
            break
    return tuple(points)


def _alarms(subject: Subject, which: str, watch: str) -> list[Finding]:
    doctor = train(getattr(subject, which), SEEDS[0], watch).doctor
    assert doctor is not None
    found = [finding for finding in doctor.findings if finding.alarms]
    doctor.detach()
    return found


HEADER = (
    "| no. | post | faults | broken | fixed | the doctor's alarms | detected | named | fixes | plan fixes "
    "| false alarm | " + " | ".join(HEADINGS.values()) + " |\n|" + "---|" * (11 + len(HEADINGS))
)


def format_row(found: Score, row: Row) -> str:
    """Return a row of the table; the columns of the other tools have `d` for detected and `c` for cause named."""
    subject, outcome = found.subject, found.outcome
    marks = [bool(found.kinds), found.names_any, found.fixes, found.plan_fixes]
    tools = [("d" if row.detected[t] else "") + ("c" if row.named[t] else "") or "-" for t in TOOLS]
    cells = (
        f"{subject.number}{'*' if subject.facts == INFERRED else ''}",
        *(row.post, ", ".join(row.faults), f"{median(outcome.broken):.0f}", f"{median(outcome.mended):.0f}"),
        *(
            ", ".join(found.kinds) or "none",
            *("no effect" if not found.is_faulty else "yes" if m else "no" for m in marks),
        ),
        *(", ".join(found.false_alarms) or "none", *tools),
    )
    return "| " + " | ".join(cells) + " |"


def totals(scores: Sequence[Score]) -> list[str]:
    """Return the totals over the programs whose fault has an effect, and those of the four tools on the same ones."""
    faulty = [s for s in scores if s.is_faulty]
    published = read_published()
    lines = [f"{len(scores)} subjects, {len(faulty)} of them with a fault that has an effect in the rebuilt program"]
    counts: list[tuple[str, Callable[[Score], bool]]] = [
        ("detected", lambda s: bool(s.kinds)),
        ("cause named by any alarm", lambda s: s.names_any),
        ("cause of the published label named by any alarm", lambda s: s.names_by_label),
        ("cause named by the first alarm", lambda s: s.names_first),
        ("first remedy fixes", lambda s: s.fixes),
        ("first remedy fixes or improves", lambda s: s.fixes or s.improves),
        ("remedies of all causes fix", lambda s: s.plan_fixes),
    ]
    lines += [_count(name, faulty, holds) for name, holds in counts]
    learning = [s for s in scores if s.subject.learns]
    lines.append(_count("false alarm on the fixed program", learning, lambda s: bool(s.false_alarms)))
    for tool, heading in HEADINGS.items():
        detected = _count(f"{heading}: detected", faulty, lambda s, t=tool: published[s.subject.number].detected[t])
        named = _count("cause named", faulty, lambda s, t=tool: published[s.subject.number].named[t])
        lines.append(f"{detected}; {named}")
    return lines


def _count(name: str, scores: Sequence[Score], holds: Callable[[Score], bool]) -> str:
    number = sum(map(holds, scores))
    return f"{name}: {number} of {len(scores)}" + (f", {100 * number / len(scores):.0f}%" if scores else "")


def main() -> None:
    """Print the table and the totals."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--half", choices=(TUNING, PUBLISHED))
    parser.add_argument("--bare", action="store_true", help="tell the doctor nothing but the model")
    parser.add_argument("numbers", nargs="*", type=int)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    chosen = half(arguments.half) if arguments.half else SUBJECTS
    published, scores = read_published(), []
    print(HEADER)
    for subject in chosen:
        if arguments.numbers and subject.number not in arguments.numbers:
            continue
        scores.append(score(subject, BARE if arguments.bare else TOLD))
        print(format_row(scores[-1], published[subject.number]), flush=True)
    print("\n".join(["", *totals(scores)]))
    if arguments.half == TUNING:
        print(
            "\n".join(
                ["", *(f"{s.subject.number}: {s.says or 'nothing'} -> {s.remedied}, plan {s.planned}" for s in scores)]
            )
        )


if __name__ == "__main__":
    main()
