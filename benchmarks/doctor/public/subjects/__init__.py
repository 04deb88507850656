"""All 52 subjects."""

from __future__ import annotations

import random

from benchmarks.doctor.public.subject import Subject
from benchmarks.doctor.public.subjects import github, images, numbers, small, tables

SUBJECTS: tuple[Subject, ...] = tuple(
    sorted(
        (*images.SUBJECTS, *numbers.SUBJECTS, *small.SUBJECTS, *tables.SUBJECTS, *github.SUBJECTS),
        key=lambda subject: subject.number,
    )
)
TUNING, PUBLISHED = "tuning", "published"
SEED = 18  # of the split


def half(name: str) -> tuple[Subject, ...]:
    """Return a random half of the subjects: `TUNING`, whose failures are read, or `PUBLISHED`."""
    tuning = set(random.Random(SEED).sample([s.number for s in SUBJECTS], len(SUBJECTS) // 2))
    return tuple(s for s in SUBJECTS if (s.number in tuning) == (name == TUNING))
