"""The healthy runs that all others are compared with: one per task and architecture, assigned to the parts."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.doctor.case import Case
from benchmarks.doctor.recipes import reporting, second_validation, tuning, validation

RECURRENT = ("rnn", "lstm", "gru")
BY_PART = {
    "tuning": tuning.RECIPES,
    "validation": validation.RECIPES,
    "second_validation": second_validation.RECIPES,
    "reporting": reporting.RECIPES,
}


def make_recipes() -> list[Case]:
    """Return the references; those of recurrent networks use clipping."""
    return [replace(recipe, part=part) for part, recipes in BY_PART.items() for recipe in recipes]
