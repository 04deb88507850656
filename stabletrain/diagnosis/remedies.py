"""What to do about it: a sentence, and overrides in the order in which the field tries them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SATURATING = ("sigmoid", "softplus", "tanh")
RECURRENT = ("rnn",)
OWN = "custom"
JOINING = ("add", "scaled", "rezero", "layerscale", "deepnorm", "highway", "dense")
GATED = ("lstm", "gru")  # their gates saturate by design: another activation is no remedy
LR_FACTOR = 0.1  # AutoTrainer (Zhang et al. 2021)
UNKNOWN_LR = 1e-3  # Adam's default

ADVICE = {
    "vanishing": "The first layers hardly learn: use an activation that does not saturate with the matching "
    "initialization, normalize, or add residual connections.",
    "exploding": "The gradient grows on its way back: clip it by its norm, start from smaller weights, or normalize.",
    "nonfinite": "A gradient overflowed: clip by norm and lower the learning rate.",
}


def advise(kind: str, choices: Mapping[str, str], learning_rate: float | None = None) -> dict[str, Any]:
    """Return `advice` and `overrides` of a finding.

    Args:
        kind: The finding's kind.
        choices: Chosen option by configuration group; an option that is chosen already is not proposed again. Empty
            for a model that stabletrain did not compose: then there are no overrides.
        learning_rate: What the optimizer's is now; a lower one is proposed.
    """
    proposals: dict[str, list[str]] = {
        "vanishing": _against_vanishing(choices),
        "exploding": ["clip=norm", "init=orthogonal", *_norm(choices)],
        "nonfinite": ["clip=norm", f"optimizer.lr={(learning_rate or UNKNOWN_LR) * LR_FACTOR:.3g}", *_norm(choices)],
    }
    overrides = [o for o in proposals[kind] if choices and not _is_chosen(o, choices)]
    return {"advice": ADVICE[kind], "overrides": overrides}


def _against_vanishing(choices: Mapping[str, str]) -> list[str]:
    if choices.get("model") in RECURRENT:
        return ["model=lstm", "init=orthogonal", "norm=layer"]
    if choices.get("model") in GATED:
        return ["init=orthogonal", "norm=layer"]
    if choices.get("model") == OWN:
        return []  # a model of the user's own: which parts it takes, nobody knows
    saturating = ["activation=relu", "init=he"] if choices.get("activation") in SATURATING else ["init=he"]
    joins = [] if choices.get("residual") in JOINING else ["residual=add"]
    return [*saturating, "norm=layer", *joins]


def _norm(choices: Mapping[str, str]) -> list[str]:
    return [] if choices.get("model") == OWN else ["norm=layer"]


def _is_chosen(override: str, choices: Mapping[str, str]) -> bool:
    group, _, option = override.partition("=")
    return choices.get(group) == option
