"""The run as stabletrain would compose it, to which the overrides of a finding apply."""

from __future__ import annotations

from typing import Any

from benchmarks.doctor.case import Case

OPTIMIZERS = {"sgd": "momentum", "adam": "adam", "rmsprop": "rmsprop"}
SCHEDULES = {"constant": "constant", "warmup": "warmup_cosine", "cosine": "warmup_cosine"}
RESIDUALS = {"none": "none", "add": "add", "zero": "rezero"}
DATA = {"circles": "circles", "moons": "circles", "blobs": "blobs", "digits": "digits", "pixels": "digits"}
GATED = ("lstm", "gru")
USUAL_GAINS = (0.3, 1.0, 3.0)  # those of the recipes: of recurrent networks with ReLU, of most, of gated ones
STARTS = {
    "mlp": "he",
    "cnn": "he",
    "transformer": "xavier",
    "rnn": "orthogonal",
    "lstm": "orthogonal",
    "gru": "orthogonal",
}


def choices_of(case: Case) -> dict[str, str]:
    """Return the option of each group that is closest to a case."""
    network, kind = case.network, case.task.partition("-")[0]
    is_recurrent = network.family in ("rnn", "lstm", "gru")
    return {
        "model": network.family,
        "activation": "tanh" if network.family in ("lstm", "gru") else network.activation,
        "init": _init_of(case),
        "norm": "none" if is_recurrent else network.norm,
        "residual": "none" if is_recurrent else RESIDUALS[network.residual],
        "clip": "norm" if case.training.clip else "none",
        "optimizer": OPTIMIZERS[case.training.optimizer],
        "schedule": SCHEDULES[case.training.schedule],
        "data": DATA.get(kind, kind),
    }


def _init_of(case: Case) -> str:
    """Return the initialization of the family, or `normal` if its scale, its biases or its scheme were changed."""
    start, is_gated = case.start, case.network.family in GATED
    is_changed = start.gain not in USUAL_GAINS or start.recurrent_gain != 1 or start.bias or start.scheme != "scaled"
    if is_changed or start.gate_bias < 0:
        return "normal"
    return "chrono" if is_gated and start.gate_bias else STARTS[case.network.family]


def settings_of(case: Case) -> dict[str, Any]:
    """Return the settings that remedies read."""
    settings: dict[str, Any] = {"optimizer.lr": case.training.lr, "model.depth": case.network.depth}
    if case.training.clip:
        settings["clip.max_norm"] = case.training.clip
    return settings


def words_of(case: Case) -> list[str]:
    """Return the overrides that compose the run."""
    settings = {key: value for key, value in settings_of(case).items() if key != "model.depth"}
    return [*(f"{key}={value}" for key, value in {**choices_of(case), **settings}.items())]
