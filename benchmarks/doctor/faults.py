"""Faults: variants of the recipes, by family. Whether a variant is buggy follows from its outcome."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from benchmarks.doctor.case import Case, Event, Expected
from benchmarks.doctor.recipes import RECURRENT

FEED_FORWARD = ("mlp", "cnn")
DIVERGED = ("nonfinite",)
SGD_LR = 0.05  # at which recipes without a norm still train


@dataclass(frozen=True)
class Variant:
    """The changes to a recipe."""

    network: Mapping[str, Any] = field(default_factory=dict)
    start: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    event: Event | None = None
    expected: Expected = field(default_factory=Expected)
    reference: str = ""  # family and number, if it is not the recipe itself

    def of(self, recipe: Case, family: str, number: int) -> Case:
        """Return the recipe with the changes."""
        return replace(
            recipe,
            name=f"{recipe.recipe}/{family}-{number}",
            network=replace(recipe.network, **self.network),
            start=replace(recipe.start, **self.start),
            training=replace(recipe.training, **self.training),
            event=self.event,
            family=family,
            expected=self.expected,
            reference=f"{recipe.recipe}/{self.reference}" if self.reference else recipe.name,
        )


Maker = Callable[[Case], Iterator[Variant]]


def _front(recipe: Case) -> tuple[str, ...]:
    """Return the first half of the hidden layers and what precedes them."""
    return (*(f"blocks.{i}" for i in range(max(1, (recipe.network.depth + 1) // 2))), "embedding", "place")


def _plain_depth(recipe: Case) -> int:
    """Return the number of layers without residual connections and norms."""
    network = recipe.network
    is_plain = network.family in FEED_FORWARD and network.norm == network.residual == "none"
    return network.depth if is_plain else 0


def vanishing(recipe: Case) -> Iterator[Variant]:
    depth = _plain_depth(recipe)
    if depth < 4:
        return
    expected = Expected(("vanishing", "bad_init"), _front(recipe))
    if depth >= 6:
        yield Variant(
            network={"activation": "sigmoid"}, expected=Expected((*expected.kinds, "saturation"), expected.paths)
        )
        yield Variant(start={"gain": 0.3}, training={"optimizer": "sgd", "lr": SGD_LR}, expected=expected)
    yield Variant(
        network={"activation": "sigmoid"},
        training={"optimizer": "sgd", "lr": SGD_LR},
        expected=Expected((*expected.kinds, "saturation"), expected.paths),
    )
    yield Variant(start={"gain": 0.1}, expected=expected)
    if recipe.network.family == "mlp":
        yield Variant(network={"depth": 30, "activation": "tanh"}, start={"gain": 0.5}, expected=expected)
        yield Variant(network={"depth": 24, "activation": "relu"}, start={"gain": 0.6}, expected=expected)


def exploding(recipe: Case) -> Iterator[Variant]:
    depth = _plain_depth(recipe)
    if depth < 6:
        return
    expected = Expected(("exploding", "bad_init", "lr_too_high", *DIVERGED))
    for gain in (3.0, 6.0):
        yield Variant(network={"activation": "relu"}, start={"gain": gain}, expected=expected)
        yield Variant(
            network={"activation": "relu"},
            start={"gain": gain},
            training={"optimizer": "sgd", "lr": 0.02},
            expected=expected,
        )
    if recipe.network.family == "mlp":
        yield Variant(network={"depth": 24, "activation": "elu"}, start={"gain": 2.5}, expected=expected)
        yield Variant(network={"depth": 30, "activation": "relu"}, start={"gain": 2.0}, expected=expected)


def time_vanishing(recipe: Case) -> Iterator[Variant]:
    family = recipe.network.family
    expected = Expected(("time_vanishing", "bad_init"), ("rnn",))
    if family == "rnn":
        for gain in (0.2, 0.4, 0.6):
            yield Variant(start={"recurrent_gain": gain}, expected=expected)
        if recipe.network.activation == "tanh":
            yield Variant(start={"recurrent_gain": 0.5}, training={"optimizer": "sgd", "lr": SGD_LR}, expected=expected)
    elif family in RECURRENT:
        yield Variant(start={"gate_bias": -3.0, "recurrent_gain": 0.3}, expected=expected)
        yield Variant(start={"gate_bias": -5.0}, expected=expected)
        yield Variant(start={"gate_bias": -2.0, "recurrent_gain": 0.1, "gain": 0.5}, expected=expected)


def time_exploding(recipe: Case) -> Iterator[Variant]:
    family = recipe.network.family
    expected = Expected(("time_exploding", "exploding", "bad_init", *DIVERGED), ("rnn",))
    if family == "rnn" and recipe.network.activation == "relu":
        for gain in (1.3, 1.6, 2.5):
            yield Variant(start={"recurrent_gain": gain}, expected=expected)
        yield Variant(start={"recurrent_gain": 1.4}, training={"clip": 0.0}, expected=expected)
    elif family == "rnn":
        for gain in (2.0, 3.0):
            yield Variant(start={"recurrent_gain": gain}, expected=expected)
        yield Variant(
            start={"recurrent_gain": 2.0}, training={"optimizer": "sgd", "lr": 0.1, "clip": 0.0}, expected=expected
        )
        yield Variant(network={"activation": "relu"}, start={"recurrent_gain": 1.5}, expected=expected)
    elif family in RECURRENT:
        yield Variant(start={"recurrent_gain": 8.0, "gate_bias": 0.0}, expected=expected)
        yield Variant(start={"recurrent_gain": 20.0}, training={"clip": 0.0}, expected=expected)


def dead_units(recipe: Case) -> Iterator[Variant]:
    network = recipe.network
    if network.family not in FEED_FORWARD or network.residual != "none" or network.norm != "none":
        return

    def dead(at: int | None, bias: float, **training: Any) -> Variant:
        around = range(network.depth) if at is None else (at, at + 1)
        paths = (*(f"blocks.{i}" for i in around), *(("head",) if at in (None, network.depth - 1) else ()))
        expected = Expected(("dead_units", "bad_init"), paths)
        return Variant({"activation": "relu"}, {"bias": bias, "at": at}, training, expected=expected)

    yield dead(1, -15.0)
    yield dead(network.depth // 2, -30.0)
    yield dead(network.depth - 1, -20.0, optimizer="sgd", lr=SGD_LR)
    yield dead(None, -4.0)


def lr_too_high(recipe: Case) -> Iterator[Variant]:
    lr = recipe.training.lr
    kinds = ("lr_too_high", "oscillation", *DIVERGED)
    for factor in (30, 100, 300):
        yield Variant(training={"lr": lr * factor}, expected=Expected(kinds))
    if recipe.network.family in FEED_FORWARD:
        yield Variant(training={"optimizer": "sgd", "lr": 5.0}, expected=Expected(kinds))


def lr_too_low(recipe: Case) -> Iterator[Variant]:
    lr = recipe.training.lr
    for factor in (100, 1000) if recipe.network.family in RECURRENT else (100, 400, 2000):
        yield Variant(training={"lr": lr / factor}, expected=Expected(("lr_too_low", "no_progress")))
    if recipe.network.family in ("mlp", "transformer"):
        yield Variant(training={"optimizer": "sgd", "lr": 1e-5}, expected=Expected(("lr_too_low", "no_progress")))


def oscillation(recipe: Case) -> Iterator[Variant]:
    kinds = Expected(("oscillation", "lr_too_high", "loss_spike", *DIVERGED))
    lr = recipe.training.lr
    if recipe.network.family in RECURRENT:
        yield Variant(training={"optimizer": "sgd", "lr": 5.0, "momentum": 0.95, "clip": 1.0}, expected=kinds)
        return
    yield Variant(training={"batch_size": 4, "lr": 15 * lr}, expected=kinds)
    yield Variant(training={"optimizer": "sgd", "lr": 0.5, "momentum": 0.97}, expected=kinds)
    yield Variant(
        training={"optimizer": "sgd", "lr": 1.0, "momentum": 0.9, "batch_size": 8, "clip": 2.0}, expected=kinds
    )
    yield Variant(training={"momentum": 0.0, "lr": 20 * lr}, expected=kinds)


def saturation(recipe: Case) -> Iterator[Variant]:
    network = recipe.network
    paths = (*(f"blocks.{i}" for i in range(network.depth)), "head")
    expected = Expected(("saturation", "bad_init"), paths)
    if network.family == "rnn" and network.activation == "tanh":
        expected = Expected(("saturation", "bad_init", "time_vanishing"), ("rnn",))
        yield Variant(start={"gain": 30.0, "recurrent_gain": 5.0}, expected=expected)
        yield Variant(start={"bias": 6.0}, expected=expected)
        yield Variant(training={"input_factor": 60.0}, expected=expected)
    if _plain_depth(recipe) < 4 or network.family != "mlp":
        return
    yield Variant({"activation": "tanh"}, {"gain": 12.0}, expected=expected)
    yield Variant({"activation": "tanh"}, {"gain": 20.0}, {"optimizer": "sgd", "lr": SGD_LR}, expected=expected)
    yield Variant({"activation": "tanh"}, {"bias": 8.0, "at": network.depth // 2}, expected=expected)
    yield Variant(
        {"activation": "sigmoid", "depth": 4}, {"gain": 30.0}, {"optimizer": "sgd", "lr": SGD_LR}, expected=expected
    )
    yield Variant({"activation": "sigmoid", "depth": 4}, {"bias": -9.0, "at": 1}, expected=expected)


def bad_init(recipe: Case) -> Iterator[Variant]:
    kinds = ("bad_init", "vanishing", "no_progress")
    yield Variant(start={"scheme": "zero", "gain": 0.0}, expected=Expected(kinds))
    if recipe.network.family in RECURRENT:
        yield Variant(
            start={"scheme": "constant"}, expected=Expected(("bad_init", "time_exploding", "exploding", "saturation"))
        )
        return
    yield Variant(
        start={"scheme": "constant"}, expected=Expected(("bad_init", "exploding", "vanishing", "saturation", *DIVERGED))
    )
    large = Expected(("bad_init", "exploding", "saturation", *DIVERGED))
    yield Variant(start={"gain": 100.0}, expected=large)
    yield Variant(start={"gain": 100.0, "at": 0}, expected=large)


FAULTS: dict[str, Maker] = {
    "vanishing": vanishing,
    "exploding": exploding,
    "time_vanishing": time_vanishing,
    "time_exploding": time_exploding,
    "dead_units": dead_units,
    "lr_too_high": lr_too_high,
    "lr_too_low": lr_too_low,
    "oscillation": oscillation,
    "saturation": saturation,
    "bad_init": bad_init,
}
