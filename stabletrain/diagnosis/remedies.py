"""What to do about a finding: a sentence, and overrides in the order in which the field tries them, each with why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from stabletrain.diagnosis.observations import About
from stabletrain.diagnosis.words import ADVICE, CALLS
from stabletrain.vocabulary.finding import Finding

SATURATING = ("sigmoid", "softplus", "tanh")
RELUS = ("relu", "leaky_relu", "prelu", "gelu", "silu", "mish", "elu")  # He et al. 2015 and its kin
JOINING = ("add", "scaled", "rezero", "layerscale", "deepnorm", "highway", "dense")
GATED = ("lstm", "gru")  # their gates saturate by design: another activation is no remedy
RECURRENT = ("rnn", *GATED)
PLAIN_JOINS = ("mlp", "cnn", "resnet", "transformer")  # families that take residual=add and may lack it
OWN = "custom"  # a model of the user's own: which parts it takes, nobody knows
LR_FACTOR = 0.1  # AutoTrainer (Zhang et al. 2021), section 4.2
CLIP_FACTOR = 0.1


class Remedy(NamedTuple):
    """An override, and why it helps, with the source."""

    override: str
    why: str


HE = Remedy("init=he", "Keeps the variance over layers of ReLU and its kin (He et al. 2015, eq. 10).")
LSUV = Remedy("init=lsuv", "It scales each layer until its outputs have variance 1 (Mishkin and Matas 2016).")


def with_remedies(finding: Finding, about: About) -> Finding:
    """Return the finding with its advice and its overrides.

    Without a composition of ours there are no overrides: then the advice says which calls do the same.
    """
    if not about.choices:
        return replace(finding, advice=f"{ADVICE[finding.kind]} {CALLS[finding.kind]}")
    chosen = remedies_for(finding, about)
    overrides, reasons = [r.override for r in chosen], [r.why for r in chosen]
    return replace(finding, advice=ADVICE[finding.kind], overrides=overrides, reasons=reasons)


def remedies_for(finding: Finding, about: About) -> list[Remedy]:
    """Return remedies that the composition takes and does not have already, best first and one of each group.

    Two options of one group would shut each other out.
    """
    found: dict[str, Remedy] = {}
    for remedy in REMEDIES[finding.kind](finding, about):
        if not _is_chosen(remedy.override, about):
            found.setdefault(remedy.override.partition("=")[0].partition(".")[0], remedy)
    return list(found.values())


def _vanishing(finding: Finding, about: About) -> list[Remedy]:
    model, activation = about.choices.get("model"), about.choices.get("activation")
    if model in RECURRENT:
        return [*_gates(about), *_recurrent_start(), *_norm(about)]
    change = [Remedy("activation=relu", "Its slope is 1 for half of all inputs (Glorot et al. 2011, section 3).")]
    if activation not in SATURATING or model == OWN:
        return [*_start(about), *_norm(about), *_skips(about), LSUV]
    return [*change, HE, *_norm(about), *_skips(about)]


def _exploding(finding: Finding, about: About) -> list[Remedy]:
    return [*_clip(about), *_start(about), *_norm(about), *_lower_lr(about)]


def _time_vanishing(finding: Finding, about: About) -> list[Remedy]:
    chrono = Remedy("init=chrono", "Gates that begin open for as long as the sequence (Tallec and Ollivier 2018).")
    if about.choices.get("model") in GATED:
        return [chrono, *_recurrent_start(), *_norm(about)]
    return [*_gates(about), *_recurrent_start(), *_norm(about)]


def _time_exploding(finding: Finding, about: About) -> list[Remedy]:
    return [*_clip(about), *_recurrent_start(), *_gates(about), *_lower_lr(about)]


def _nonfinite(finding: Finding, about: About) -> list[Remedy]:
    return [*_clip(about), *_lower_lr(about), *_norm(about)]


def _dead_units(finding: Finding, about: About) -> list[Remedy]:
    leaky = Remedy("activation=leaky_relu", "It has a slope below zero too, so no unit dies (Maas et al. 2013).")
    own = about.choices.get("model") in (OWN, *GATED)
    return [*([] if own else [leaky]), *_start(about), *_lower_lr(about), *_norm(about)]


def _saturation(finding: Finding, about: About) -> list[Remedy]:
    relu = Remedy("activation=relu", "It has no upper end to sit on (Glorot et al. 2011, section 3).")
    own = about.choices.get("model") in (OWN, *RECURRENT)
    return [*_start(about), *_norm(about), *([] if own else [relu]), *_lower_lr(about)]


def _bad_init(finding: Finding, about: About) -> list[Remedy]:
    return [*_start(about), LSUV, *_norm(about)]


def _loss_spike(finding: Finding, about: About) -> list[Remedy]:
    zscore = Remedy("clip=zscore", "It clips what is unusual for this run (Kumar et al. 2025, ZClip).")
    return [*_clip(about), zscore, *_lower_lr(about)]


def _lr_too_high(finding: Finding, about: About) -> list[Remedy]:
    warmup = Remedy("schedule=warmup_cosine", "Small steps first, while the curvature falls (Goyal et al. 2017).")
    return [*_lower_lr(about), warmup, *_clip(about)]


def _oscillation(finding: Finding, about: About) -> list[Remedy]:
    adam = Remedy("optimizer=adam", "It divides each step by the gradient's own swing (Kingma and Ba 2015).")
    plateau = Remedy("schedule=plateau", "Smaller steps once the loss stops falling.")
    return [*_lower_lr(about), plateau, adam]


def _lr_too_low(finding: Finding, about: About) -> list[Remedy]:
    return [*_change_lr(about, 1 / LR_FACTOR, "Ten times as far in as many steps."), *_search_lr(about)]


def _no_progress(finding: Finding, about: About) -> list[Remedy]:
    return [*_search_lr(about), *_start(about), *_norm(about), *_skips(about)]


def _clip_ineffective(finding: Finding, about: About) -> list[Remedy]:
    return [*_clip(about), *_lower_lr(about)]


def _clip_always(finding: Finding, about: About) -> list[Remedy]:
    limit = about.settings.get("clip.max_norm")
    higher = (
        [Remedy(f"clip.max_norm={limit / CLIP_FACTOR:.3g}", "A limit that only the unusual steps meet.")]
        if limit
        else []
    )
    percentile = Remedy("clip=percentile", "A limit that follows the run's own norms (Seetharaman et al. 2020).")
    return [*higher, percentile, *_lower_lr(about)]


REMEDIES: dict[str, Callable[[Finding, About], list[Remedy]]] = {
    "vanishing": _vanishing,
    "exploding": _exploding,
    "time_vanishing": _time_vanishing,
    "time_exploding": _time_exploding,
    "nonfinite": _nonfinite,
    "dead_units": _dead_units,
    "saturation": _saturation,
    "bad_init": _bad_init,
    "loss_spike": _loss_spike,
    "oscillation": _oscillation,
    "no_progress": _no_progress,
    "lr_too_high": _lr_too_high,
    "lr_too_low": _lr_too_low,
    "clip_ineffective": _clip_ineffective,
    "clip_always": _clip_always,
}


def _clip(about: About) -> list[Remedy]:
    limit = about.settings.get("clip.max_norm")
    if about.choices.get("clip") == "norm" and limit:
        return [Remedy(f"clip.max_norm={limit * CLIP_FACTOR:.3g}", "A limit that is met (Pascanu et al. 2013).")]
    return [Remedy("clip=norm", "Keeps the direction and bounds the step (Pascanu et al. 2013, section 3.2).")]


def _lower_lr(about: About) -> list[Remedy]:
    return _change_lr(about, LR_FACTOR, "A tenth of the step (AutoTrainer, Zhang et al. 2021, section 4.2).")


def _change_lr(about: About, factor: float, why: str) -> list[Remedy]:
    lr = about.settings.get("optimizer.lr")
    return [Remedy(f"optimizer.lr={lr * factor:.3g}", why)] if isinstance(lr, int | float) and lr > 0 else []


def _search_lr(about: About) -> list[Remedy]:
    why = "Tries rising rates before the run (Smith 2017)."
    is_ours = about.choices.get("model") != OWN and "optimizer.lr" in about.settings
    return [Remedy("lr_find=true", why)] if is_ours else []


def _norm(about: About) -> list[Remedy]:
    model = about.choices.get("model")
    if model == OWN:
        return []
    if model in ("cnn", "resnet", "densenet1d"):
        return [Remedy("norm=batch", "Each channel keeps its scale over the batch (Ioffe and Szegedy 2015).")]
    return [Remedy("norm=layer", "Each layer's inputs keep their scale (Ba et al. 2016).")]


def _start(about: About) -> list[Remedy]:
    if about.choices.get("model") in RECURRENT:
        return _recurrent_start()
    if about.choices.get("activation") == "selu":
        return [Remedy("init=lecun", "The start that SELU is made for (Klambauer et al. 2017).")]
    if about.choices.get("activation") in RELUS:
        return [HE]
    return [Remedy("init=xavier", "Keeps the variance both ways (Glorot and Bengio 2010, eq. 16).")]


def _recurrent_start() -> list[Remedy]:
    return [Remedy("init=orthogonal", "Keeps lengths from step to step (Saxe et al. 2014; Arjovsky et al. 2016).")]


def _gates(about: About) -> list[Remedy]:
    lstm = Remedy("model=lstm", "Its cell hands the gradient on as it is (Hochreiter and Schmidhuber 1997).")
    return [lstm] if about.choices.get("model") == "rnn" else []


def _skips(about: About) -> list[Remedy]:
    joins = about.choices.get("model") in PLAIN_JOINS and about.choices.get("residual") not in JOINING
    return [Remedy("residual=add", "A way past each layer (He et al. 2016, Identity Mappings).")] if joins else []


def _is_chosen(override: str, about: About) -> bool:
    key, _, option = override.partition("=")
    return about.choices.get(key) == option
