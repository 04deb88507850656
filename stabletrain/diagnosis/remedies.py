"""What to do about a finding: advice in words, and overrides in the order in which the field tries them.

This module has the building blocks: functions from what is known of the run to the remedies that fit it. Which of them
a kind of finding proposes, and in which order, is written beside its rule.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from stabletrain.diagnosis.observations import About
from stabletrain.vocabulary.finding import Finding
from stabletrain.vocabulary.kinds import KINDS

SATURATING = ("sigmoid", "softplus", "tanh")
RELU_LIKE = ("relu", "leaky_relu", "prelu", "gelu", "silu", "mish", "elu")  # He et al. 2015 and its descendants
SKIPS = ("add", "scaled", "rezero", "layerscale", "deepnorm", "highway", "dense")
GATED = ("lstm", "gru")  # their gates saturate by design: another activation is no remedy
RECURRENT = ("rnn", *GATED)
CONVOLUTIONAL = ("cnn", "resnet", "densenet1d")
TAKING_SKIPS = ("mlp", "cnn", "resnet", "transformer")  # families that accept residual=add and may lack it
CUSTOM = "custom"  # a user-defined model: nobody knows which parts it accepts
LR_FACTOR = 0.1  # AutoTrainer (Zhang et al. 2021), section 4.2
CLIP_FACTOR = 0.1


class Remedy(NamedTuple):
    """An override, and why it helps, with the source."""

    override: str
    why: str


HE = Remedy("init=he", "Preserves the variance over ReLU-like layers (He et al. 2015, eq. 10).")
LSUV = Remedy("init=lsuv", "Scales each layer until its outputs have variance 1 (Mishkin and Matas 2016).")


def with_remedies(finding: Finding, about: About) -> Finding:
    """Return the finding with its advice, and with overrides if stabletrain composed the run.

    For a foreign model there is nothing to override: its advice names the Python calls instead. Advice that a rule has
    given itself is kept.
    """
    kind = KINDS[finding.kind]
    if finding.advice and not about.choices:  # a rule that knows the cause says itself what mends it
        return finding
    if not about.choices:
        return replace(finding, advice=f"{kind.advice} In code: {kind.in_code}.")
    chosen = remedies_for(finding, about)
    advice = finding.advice or kind.advice
    return replace(finding, advice=advice, overrides=[r.override for r in chosen], reasons=[r.why for r in chosen])


def remedies_for(finding: Finding, about: About) -> list[Remedy]:
    """Return the remedies that the composition accepts and does not have yet, best first, one of each group.

    Two options of one group would exclude each other.
    """
    found: dict[str, Remedy] = {}
    for propose in KINDS[finding.kind].remedies:
        for remedy in propose(finding, about):
            if not _is_chosen(remedy.override, about):
                found.setdefault(remedy.override.partition("=")[0].partition(".")[0], remedy)
    return list(found.values())


def clip(about: About) -> list[Remedy]:
    """Propose clipping by the norm, or a lower threshold where it is chosen already."""
    max_norm = about.settings.get("clip.max_norm")
    if about.choices.get("clip") == "norm" and max_norm:
        return [Remedy(f"clip.max_norm={max_norm * CLIP_FACTOR:.3g}", "A threshold that acts (Pascanu et al. 2013).")]
    return [Remedy("clip=norm", "Keeps the direction and bounds the step (Pascanu et al. 2013, section 3.2).")]


def lower_lr(about: About) -> list[Remedy]:
    """Propose a tenth of the learning rate."""
    return change_lr(about, LR_FACTOR, "A tenth of the step (AutoTrainer, Zhang et al. 2021, section 4.2).")


def change_lr(about: About, factor: float, why: str) -> list[Remedy]:
    """Propose `factor` times the learning rate, where it is known."""
    lr = about.settings.get("optimizer.lr")
    return [Remedy(f"optimizer.lr={lr * factor:.3g}", why)] if isinstance(lr, int | float) and lr > 0 else []


def search_lr(about: About) -> list[Remedy]:
    """Propose the learning rate finder, for the families of stabletrain."""
    is_ours = about.choices.get("model") != CUSTOM and "optimizer.lr" in about.settings
    return [Remedy("lr_find=true", "Tries increasing rates before the run (Smith 2017).")] if is_ours else []


def norm(about: About) -> list[Remedy]:
    """Propose the normalization that fits the family."""
    model = about.choices.get("model")
    if model == CUSTOM:
        return []
    if model in CONVOLUTIONAL:
        return [Remedy("norm=batch", "Each channel keeps its scale over the batch (Ioffe and Szegedy 2015).")]
    return [Remedy("norm=layer", "The inputs of each layer keep their scale (Ba et al. 2016).")]


def initialization(about: About) -> list[Remedy]:
    """Propose the initialization that matches the activation."""
    if about.choices.get("model") in RECURRENT:
        return recurrent_initialization()
    if about.choices.get("activation") == "selu":
        return [Remedy("init=lecun", "The initialization that SELU assumes (Klambauer et al. 2017).")]
    if about.choices.get("activation") in RELU_LIKE:
        return [HE]
    return [Remedy("init=xavier", "Preserves the variance in both directions (Glorot and Bengio 2010, eq. 16).")]


def recurrent_initialization() -> list[Remedy]:
    """Propose orthogonal recurrent weights."""
    return [Remedy("init=orthogonal", "Preserves norms from step to step (Saxe et al. 2014; Arjovsky et al. 2016).")]


def gated_cell(about: About) -> list[Remedy]:
    """Propose an LSTM in place of a plain recurrent network."""
    lstm = Remedy("model=lstm", "Its cell passes the gradient on unchanged (Hochreiter and Schmidhuber 1997).")
    return [lstm] if about.choices.get("model") == "rnn" else []


def skips(about: About) -> list[Remedy]:
    """Propose residual connections, where the family accepts them and has none."""
    lacks = about.choices.get("model") in TAKING_SKIPS and about.choices.get("residual") not in SKIPS
    return [Remedy("residual=add", "A path around each layer (He et al. 2016, Identity Mappings).")] if lacks else []


def _is_chosen(override: str, about: About) -> bool:
    key, _, option = override.partition("=")
    return about.choices.get(key) == option
