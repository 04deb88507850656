"""Check whether the first override of every finding composes, on the run as stabletrain would have composed it.

python -m benchmarks.doctor.overrides --folder FOLDER --part reporting
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping
from pathlib import Path

from benchmarks.doctor.case import PARTS, Case
from benchmarks.doctor.cases import make_cases
from benchmarks.doctor.composition import words_of
from benchmarks.doctor.labels import BUGGY, HEALTHY, read_labels
from benchmarks.doctor.score import read_recordings
from stabletrain.app.composition.compose import compose
from stabletrain.diagnosis.doctor import diagnose
from stabletrain.diagnosis.observations import Observations
from stabletrain.errors import RequestError
from stabletrain.vocabulary.finding import Finding


def refused(case: Case, finding: Finding) -> str | None:
    """Return why the first override of a finding does not compose; None if it does."""
    if not finding.overrides:
        return "no override"
    first = shlex.split(finding.overrides[0])
    keys = {word.partition("=")[0] for word in first}
    groups = {key for key in keys if "." not in key}
    kept = [w for w in words_of(case) if (k := w.partition("=")[0]) not in keys and k.partition(".")[0] not in groups]
    try:
        compose([*kept, *first])
    except RequestError as error:
        return f"{finding.overrides[0]}: {error}"
    return None


def refused_overrides(cases: Mapping[str, Case], recordings: Mapping[str, Observations]) -> tuple[int, list[str]]:
    """Return the number of findings, and a line for each whose first override does not compose."""
    found = [(cases[name], finding) for name, observed in recordings.items() for finding in diagnose(observed)]
    reasons = {}
    for case, finding in found:
        key = (tuple(words_of(case)), tuple(finding.overrides[:1]))
        if key not in reasons:
            reasons[key] = (case.name, finding.kind, refused(case, finding))
    return len(found), [f"- {name}, {kind}: {reason}" for name, kind, reason in reasons.values() if reason]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="folder of the recordings")
    parser.add_argument("--part", choices=PARTS, default="reporting")
    options = parser.parse_args()
    labels = read_labels()
    cases = {c.name: c for c in make_cases() if c.part == options.part and labels[c.name].word in (BUGGY, HEALTHY)}
    count, lines = refused_overrides(cases, read_recordings(options.folder, cases.values(), labels))
    print(f"{count} findings; first overrides that do not compose: {len(lines)}")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
