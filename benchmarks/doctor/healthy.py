"""Runs that should be healthy: plain ones, and those that appear unhealthy. Their outcomes decide whether they are."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.doctor.case import Case, Event
from benchmarks.doctor.events import MOMENTUM_LR, _step
from benchmarks.doctor.faults import FEED_FORWARD, Maker, Variant
from benchmarks.doctor.recipes import RECURRENT


def plain(recipe: Case) -> Iterator[Variant]:
    """Vary choices that work as well."""
    training, is_recurrent = recipe.training, recipe.network.family in RECURRENT
    yield Variant(training={"lr": training.lr / 2})
    yield Variant(training={"schedule": "cosine"})
    yield Variant(training={"batch_size": 2 * training.batch_size})
    if not is_recurrent:
        yield Variant(network={"width": 2 * recipe.network.width})
        yield Variant(training={"clip": 1.0})
        yield Variant(network={"dropout": 0.05})
        yield Variant(training={"optimizer": "rmsprop", "lr": training.lr / 3})


def sgd(recipe: Case) -> Iterator[Variant]:
    """Use momentum without adaptive steps; also the reference of poisoned runs."""
    if recipe.network.family not in RECURRENT:
        yield Variant(training={"optimizer": "sgd", "lr": MOMENTUM_LR})


def tiny_gradients(recipe: Case) -> Iterator[Variant]:
    """Scale the loss down: Adam is invariant to the size of the gradient."""
    yield Variant(training={"loss_factor": 1e-3})
    if recipe.network.norm == "none" and recipe.network.family in FEED_FORWARD:
        yield Variant(start={"gain": 0.6})


def converged(recipe: Case) -> Iterator[Variant]:
    """Train long after the loss has reached zero."""
    if recipe.network.family == "mlp" and recipe.network.depth <= 12:
        yield Variant(training={"num_steps": 2 * recipe.training.num_steps})


def sparse_relu(recipe: Case) -> Iterator[Variant]:
    """Make about four in five activations zero without dead units."""
    if recipe.network.activation == "relu" and recipe.network.family in FEED_FORWARD:
        yield Variant(start={"bias": -0.5, "gain": 1.3} if recipe.network.depth <= 6 else {"bias": -0.15})


def saturated_gates(recipe: Case) -> Iterator[Variant]:
    """Start with gates that are almost fully open, which is how they remember."""
    if recipe.network.family in ("lstm", "gru"):
        yield Variant(start={"gate_bias": recipe.start.gate_bias + 1.5})


def zero_residual(recipe: Case) -> Iterator[Variant]:
    """Initialize residual branches to zero."""
    if recipe.network.residual == "add":
        norm = "none" if recipe.network.family == "mlp" else recipe.network.norm
        activation = "gelu" if recipe.network.family == "mlp" else recipe.network.activation
        yield Variant(network={"residual": "zero", "norm": norm, "activation": activation})
        yield Variant(
            network={"residual": "zero", "norm": norm, "activation": activation}, training={"schedule": "warmup"}
        )


def frozen(recipe: Case) -> Iterator[Variant]:
    """Freeze the first layers, as in fine-tuning."""
    if recipe.network.family not in RECURRENT and recipe.network.depth >= 4:
        yield Variant(start={"frozen": 1})
        yield Variant(start={"frozen": 2})


def summed_loss(recipe: Case) -> Iterator[Variant]:
    """Sum the loss over the batch."""
    size = float(recipe.training.batch_size)
    yield Variant(training={"loss_factor": size, "clip": size * recipe.training.clip})


def warmup(recipe: Case) -> Iterator[Variant]:
    """Increase the learning rate over the first 30% of the budget."""
    yield Variant(training={"schedule": "warmup"})


def outlier_batch(recipe: Case) -> Iterator[Variant]:
    """Insert one outlier batch."""
    yield Variant(event=Event("outlier", _step(recipe, 1), 5.0))


def skipped_step(recipe: Case) -> Iterator[Variant]:
    """Imitate half precision: infinite gradients, and a step that the loss scaler skips."""
    yield Variant(event=Event("skip", _step(recipe, 0)))


def ending_plateau(recipe: Case) -> Iterator[Variant]:
    """Train through a long plateau that ends."""
    if recipe.network.family == "mlp" and recipe.network.norm == "none" and recipe.network.depth <= 8:
        num_steps = 2 * recipe.training.num_steps
        yield Variant(network={"activation": "sigmoid", "depth": 3}, training={"num_steps": num_steps})
        yield Variant(start={"gain": 0.4}, training={"num_steps": num_steps})
    if recipe.task.startswith("copy") and recipe.network.family in ("lstm", "gru"):
        yield Variant(training={"lr": recipe.training.lr / 3, "num_steps": 2 * recipe.training.num_steps})


HARD: dict[str, Maker] = {
    "tiny_gradients": tiny_gradients,
    "converged": converged,
    "sparse_relu": sparse_relu,
    "saturated_gates": saturated_gates,
    "zero_residual": zero_residual,
    "frozen": frozen,
    "summed_loss": summed_loss,
    "warmup": warmup,
    "outlier_batch": outlier_batch,
    "skipped_step": skipped_step,
    "ending_plateau": ending_plateau,
}
PLAIN: dict[str, Maker] = {"plain": plain, "sgd": sgd}
