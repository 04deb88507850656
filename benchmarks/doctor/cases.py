"""All cases: every recipe and its variants, in a fixed order.

Recipes are assigned to the parts by hand, so that each part has every family of networks and no architecture on the
same task is in two parts. The seeds of the parts differ too.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable

from benchmarks.doctor.case import PARTS, Case
from benchmarks.doctor.events import EVENTS
from benchmarks.doctor.faults import FAULTS
from benchmarks.doctor.healthy import HARD, PLAIN
from benchmarks.doctor.recipes import make_recipes

BUGGY_FAMILIES = (*FAULTS, *EVENTS)
MAKERS = {**PLAIN, **HARD, **FAULTS, **EVENTS}
HALVED = ("validation", "second_validation")
# Number of candidates of each family in the tuning and reporting parts, half as many in the others: those with the
# smallest digests.
NUM_CANDIDATES = {
    "plain": 56,
    "tiny_gradients": 8,
    "converged": 6,
    "sparse_relu": 6,
    "saturated_gates": 6,
    "zero_residual": 6,
    "frozen": 6,
    "summed_loss": 8,
    "warmup": 6,
    "outlier_batch": 6,
    "skipped_step": 6,
    "ending_plateau": 8,
    "vanishing": 22,
    "exploding": 18,
    "time_vanishing": 20,
    "time_exploding": 18,
    "dead_units": 18,
    "lr_too_high": 20,
    "lr_too_low": 16,
    "oscillation": 20,
    "saturation": 18,
    "bad_init": 18,
    "poisoned_batch": 18,
    "lr_jump": 14,
    "corrupted_state": 18,
}


def _variants(family: str, recipes: Iterable[Case]) -> list[Case]:
    return [variant.of(recipe, family, i) for recipe in recipes for i, variant in enumerate(MAKERS[family](recipe))]


@functools.lru_cache(maxsize=1)
def make_cases() -> tuple[Case, ...]:
    """Return all candidates, references first."""
    recipes = make_recipes()
    chosen = []
    for family, count in NUM_CANDIDATES.items():
        for part in PARTS:
            found = _variants(family, [recipe for recipe in recipes if recipe.part == part])
            chosen += sorted(found, key=lambda case: case.digest)[: count // 2 if part in HALVED else count]
    needed = {case.reference for case in chosen}
    compared = [case for case in _variants("sgd", recipes) if case.name in needed]
    by_digest: dict[str, Case] = {}  # a variant that sets the activation is the same for two recipes
    for case in (*recipes, *compared, *sorted(chosen, key=lambda case: case.name)):
        by_digest.setdefault(case.digest, case)
    assert len({case.name for case in by_digest.values()}) == len(by_digest)
    return tuple(by_digest.values())
