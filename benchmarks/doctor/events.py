"""Faults in the middle of a run; each is compared with the same run without it."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.doctor.case import Case, Event, Expected
from benchmarks.doctor.faults import Maker, Variant
from benchmarks.doctor.recipes import RECURRENT

WRECKED = ("loss_spike", "lr_too_high", "exploding", "dead_units", "nonfinite")
AT = (0.3, 0.5, 0.7)  # of the training budget
MOMENTUM_LR = 0.02
PLAIN_SGD = "sgd-0"


def _step(recipe: Case, number: int) -> int:
    return round(AT[number % len(AT)] * recipe.training.num_steps)


def poisoned_batch(recipe: Case) -> Iterator[Variant]:
    expected = Expected(WRECKED)
    yield Variant(event=Event("nan_batch", _step(recipe, 0)), expected=Expected(("nonfinite",)))
    if recipe.network.family in RECURRENT:
        return  # gates and clipping limit the damage of the other events
    sgd = {"optimizer": "sgd", "lr": MOMENTUM_LR}
    yield Variant(training=sgd, event=Event("poison", _step(recipe, 1), 100.0), expected=expected, reference=PLAIN_SGD)
    yield Variant(training=sgd, event=Event("poison", _step(recipe, 2), 1000.0), expected=expected, reference=PLAIN_SGD)
    yield Variant(event=Event("poison", round(0.1 * recipe.training.num_steps), 1e6), expected=expected)


def lr_jump(recipe: Case) -> Iterator[Variant]:
    expected = Expected((*WRECKED, "oscillation"))
    for number, size in enumerate((100.0, 1000.0)):
        yield Variant(event=Event("lr_jump", _step(recipe, number + 1), size), expected=expected)


def corrupted_state(recipe: Case) -> Iterator[Variant]:
    expected = Expected(WRECKED)
    for number, size in enumerate((1000.0, 1e5)):
        yield Variant(event=Event("momentum", _step(recipe, number), size), expected=expected)
    if recipe.network.family == "mlp":
        yield Variant(event=Event("moments", _step(recipe, 2), 1e10), expected=expected)
    yield Variant(event=Event("nan_state", _step(recipe, 1)), expected=Expected(("nonfinite",)))


EVENTS: dict[str, Maker] = {"poisoned_batch": poisoned_batch, "lr_jump": lr_jump, "corrupted_state": corrupted_state}
