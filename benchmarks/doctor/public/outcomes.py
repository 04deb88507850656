"""Train broken and mended programs on three seeds, unwatched, and keep their points.

python -m benchmarks.doctor.public.outcomes [NUMBER …]
"""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median

from benchmarks.doctor.public.subject import Subject
from benchmarks.doctor.public.subjects import SUBJECTS
from benchmarks.doctor.public.train import train

FILE = Path(__file__).with_name("outcomes.json")
SEEDS = (0, 1, 2)
CLOSE = 3.0  # points within which two outcomes are the same, as in benchmarks/doctor/labels.py


@dataclass(frozen=True)
class Outcome:
    """Points of a subject's programs by seed, and the digest of what was trained."""

    broken: tuple[float, ...]
    mended: tuple[float, ...]
    digest: str

    @property
    def has_effect(self) -> bool:
        """Whether the fault costs more than `CLOSE` points on each seed."""
        return all(m - b > CLOSE for b, m in zip(self.broken, self.mended, strict=True))

    def mends(self, points: list[float]) -> bool:
        """Whether a remedy's points are those of the mended program."""
        return median(points) >= median(self.mended) - CLOSE


@cache
def read_outcomes() -> dict[int, Outcome]:
    """Return the recorded points by number."""
    recorded = json.loads(FILE.read_text())
    return {int(n): Outcome(tuple(r["broken"]), tuple(r["mended"]), r["digest"]) for n, r in recorded.items()}


def digest_of(subject: Subject) -> str:
    """Return a digest of a subject's programs."""
    settings = [sorted(program.settings.items()) for program in (subject.broken, subject.mended)]
    return hashlib.sha256(repr(settings).encode()).hexdigest()[:12]


def main() -> None:
    """Train the named subjects, or all whose programs have changed since they were recorded."""
    numbers = {int(n) for n in sys.argv[1:]}
    rows = json.loads(FILE.read_text()) if FILE.exists() else {}
    for subject in SUBJECTS:
        number, digest = str(subject.number), digest_of(subject)
        if subject.number not in numbers if numbers else rows.get(number, {}).get("digest") == digest:
            continue
        broken = [round(train(subject.broken, seed).points, 1) for seed in SEEDS]
        is_same = subject.broken == subject.mended
        mended = broken if is_same else [round(train(subject.mended, seed).points, 1) for seed in SEEDS]
        rows[number] = {"broken": broken, "mended": mended, "digest": digest}
        print(number, rows[number], flush=True)
        FILE.write_text(_lines(rows))


def _lines(rows: dict[str, dict[str, object]]) -> str:
    ordered = sorted(rows.items(), key=lambda row: int(row[0]))
    return "{\n" + ",\n".join(f'"{number}": {json.dumps(row)}' for number, row in ordered) + "\n}\n"


if __name__ == "__main__":
    main()
