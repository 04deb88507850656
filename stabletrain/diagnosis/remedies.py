"""What to do about a finding: advice in words, and overrides in the order in which they help most often.

This module has the building blocks: functions from what is known of the run to the remedies that fit it. Which of them
a kind of finding proposes, and in which order, is written beside its rule (measured: docs/doctor_advice.md).
"""

from __future__ import annotations

import functools
import shlex
from typing import NamedTuple

from stabletrain.diagnosis.circumstances import Circumstances
from stabletrain.diagnosis.client_words import in_words_of
from stabletrain.diagnosis.observations import About
from stabletrain.diagnosis.progress import Progress
from stabletrain.diagnosis.rates import LEAST_CHANGE, Rate, rounded, usual_adaptive
from stabletrain.vocabulary.finding import Finding
from stabletrain.vocabulary.kinds import KINDS
from stabletrain.vocabulary.notice import CERTAINTY, REMEDY

SATURATING = ("sigmoid", "softplus", "tanh")
RELU_LIKE = ("relu", "leaky_relu", "prelu", "gelu", "silu", "mish", "elu")  # He et al. 2015 and its descendants
SKIPS = ("add", "scaled", "rezero", "layerscale", "deepnorm", "highway", "dense")
GATED = ("lstm", "gru")  # their gates saturate by design: another activation is no remedy
RECURRENT = ("rnn", *GATED)
CONVOLUTIONAL = ("cnn", "resnet", "densenet1d")
TAKING_SKIPS = ("mlp", "cnn", "resnet", "transformer")  # families that accept residual=add and may lack it
NORM_PRESERVING = ("orthogonal", "chrono", "identity")  # initializations of recurrent weights
CUSTOM = "custom"  # a user-defined model: nobody knows which parts it accepts
LR = "optimizer.lr"
CLIP_FACTOR = 0.1
STEADY_FALL = "steady_fall"  # in the evidence: of a loss that is lowest at the end, as a fraction of the first loss
ENOUGH_FALL = 2.0  # … that larger steps are to reach, as if it went on at the same pace
ENOUGH_STEPS = 2000  # shorter trainings that end unfinished are told to take so many
TOO_FEW_STEPS = 250
USUAL_UPDATES = "Updates of the usual size, about a thousandth of the weights (Karpathy 2015)."


class Remedy(NamedTuple):
    """What to change, and why it helps, with the source.

    Attributes:
        override: Fragment of a command line: one or more overrides that belong together. For a model that stabletrain
            did not compose it is not shown, but says which settings the remedy is about.
        why: One sentence.
        in_code: The same for a model that stabletrain did not compose.
        overwrites: Whether it discards trained weights; never proposed where the weights were trained before.
        direction: −1 if it lowers the learning rate or the clipping's threshold, +1 if it raises it.
        whole: The override with the options that the composition has already; "" if it has none of them.
    """

    override: str
    why: str
    in_code: str = ""
    overwrites: bool = False
    direction: int = -1
    whole: str = ""

    @property
    def words(self) -> dict[str, str]:
        """The values by key."""
        return {key: value for key, _, value in (word.partition("=") for word in split(self.whole or self.override))}


def _init(name: str, why: str, in_code: str | None = None) -> Remedy:
    return Remedy(f"init={name}", why, in_code or f'st.initialize_(model, "{name}")', overwrites=True)


HE = _init("he", "Preserves the variance over ReLU-like layers (He et al. 2015, eq. 10).")
XAVIER = _init("xavier", "Preserves the variance in both directions (Glorot and Bengio 2010, eq. 16).")
LSUV = Remedy("init=lsuv", "Scales each layer until its outputs have variance 1 (Mishkin and Matas 2016).", "", True)
BY_NORM = Remedy(
    "clip=norm",
    "Keeps the direction and bounds the step (Pascanu et al. 2013, section 3.2).",
    'st.clip_gradients_(model.parameters(), "norm", max_norm=1.0) before each step',
)
ORTHOGONAL = _init("orthogonal", "Preserves norms from step to step (Saxe et al. 2014; Arjovsky et al. 2016).")


@functools.lru_cache
def split(override: str) -> tuple[str, ...]:
    """Return the words of a remedy."""
    return tuple(shlex.split(override))


def remedies_for(finding: Finding, about: About) -> list[Remedy]:
    """Return the remedies that fit the composition, without what it has already, best first.

    One that is part of another comes last: what does not help with more does not help alone. Where an inspector saw
    the line that is wrong, the one that fixes it is the only remedy; no override does.
    """
    if CERTAINTY in finding.evidence and REMEDY in finding.evidence:
        return [] if about.choices else [Remedy("", "", finding.evidence[REMEDY])]
    proposed = [remedy for propose in KINDS[finding.kind].remedies for remedy in propose(finding, about)]
    kept = [remedy for remedy in proposed if not (remedy.overwrites and is_pretrained(about))]
    if about.choices:
        kept = [remedy for remedy in (_without_chosen(remedy, about) for remedy in kept) if remedy.override]
    else:
        kept = [remedy._replace(in_code=in_words_of(about, remedy.override, remedy.in_code)) for remedy in kept]
    parts = [remedy for place, remedy in enumerate(kept) if any(_is_part(remedy, other) for other in kept[:place])]
    return [*(remedy for remedy in kept if remedy not in parts), *parts]


def clip(about: About) -> list[Remedy]:
    """Propose clipping by the norm, or a lower threshold where it is chosen already.

    Recurrent weights that do not preserve norms are initialized again as well: they grow what clipping cannot bound,
    the activations.
    """
    if about.choices.get("clip") == "norm" and (max_norm := about.settings.get("clip.max_norm")):
        why = "A threshold that acts (Pascanu et al. 2013)."
        lower = Remedy(f"clip.max_norm={max_norm * CLIP_FACTOR:.3g}", why, f"max_norm={max_norm * CLIP_FACTOR:.3g}")
        return [ORTHOGONAL, lower] if _may_grow_over_time(about) else [lower]
    if not _may_grow_over_time(about):
        return [BY_NORM]
    return [_both(BY_NORM, ORTHOGONAL), BY_NORM]


def clipped(remedy: Remedy, about: About) -> Remedy:
    """Return the remedy together with clipping by the norm, where steps grow with the gradient and nothing clips."""
    is_clipped = about.choices.get("clip", "none") != "none"
    return remedy if is_clipped or _rate(about).is_adaptive is not False else _both(remedy, BY_NORM)


def lower_lr(about: About) -> list[Remedy]:
    """Propose a lower learning rate that works; a tenth where the rate is unknown and the model is not ours."""
    return set_lr(_rate(about).lower(), USUAL_UPDATES) or _unknown_lr(about, "to a tenth", -1)


def higher_lr(about: About) -> list[Remedy]:
    """Propose a higher learning rate that works; ten times where the rate is unknown and the model is not ours."""
    return set_lr(_rate(about).higher(), USUAL_UPDATES, +1) or _unknown_lr(about, "ten times higher", +1)


def usual_lr(about: About) -> list[Remedy]:
    """Propose a rate that works, where the present one is far from usual and the size of the updates agrees."""
    distance, is_above = _rate(about).distance, _rate(about).is_above_target
    if distance > LEAST_CHANGE and is_above is not False:
        return lower_lr(about)
    return higher_lr(about) if distance < 1 / LEAST_CHANGE and is_above is not True else []


def longer(about: About) -> list[Remedy]:
    """Propose to train for longer, for your own loop with fewer steps than any network takes."""
    if about.choices or not about.num_steps or about.num_steps >= ENOUGH_STEPS:
        return []
    return [Remedy("", "A training takes some hundred steps at least.", f"train for {ENOUGH_STEPS:,} steps")]


def is_too_short(about: About) -> bool:
    """Return whether steps of a size that is safe, 2% of the weights, cannot replace weights a few times."""
    return bool(about.num_steps) and about.num_steps < TOO_FEW_STEPS


def steady_fall(progress: Progress) -> dict[str, float]:
    """Return by how much the loss fell, as evidence, if it is lowest at the end; nothing if it is not."""
    fell = progress.start - progress.now
    is_steady = progress.is_falling or progress.now <= progress.best
    return {STEADY_FALL: fell / progress.start} if is_steady and fell > 2 * progress.uncertainty else {}


def larger_steps(finding: Finding, about: About) -> list[Remedy]:
    """Propose the rate at which a loss that fell steadily, but little, would have fallen far enough."""
    fall = finding.evidence.get(STEADY_FALL)
    if not fall:
        return []
    why = "The loss falls steadily, by too little: larger steps in the same direction."
    return set_lr(_rate(about).higher_by(ENOUGH_FALL / fall), why, +1)


def set_lr(lr: float | None, why: str, direction: int = -1) -> list[Remedy]:
    """Propose a learning rate, where it is known."""
    if not lr:
        return []
    return [Remedy(f"{LR}={lr:.3g}", why, f"set the optimizer's lr={lr:.3g}", direction=direction)]


def warmup(about: About) -> list[Remedy]:
    """Propose to begin with small steps."""
    why = "Small steps first, while the curvature falls (Goyal et al. 2017)."
    return [Remedy("schedule=warmup_cosine", why)]


def lower_lr_gently(about: About) -> list[Remedy]:
    """Propose a lower learning rate that rises at the beginning and falls to the end."""
    lower = [remedy for remedy in lower_lr(about) if about.choices]
    return [
        r._replace(override=f"{r.override} {w.override}", why=f"{r.why} {w.why}", in_code="")
        for r in lower
        for w in warmup(about)
    ]


def adam(about: About) -> list[Remedy]:
    """Propose Adam with its usual rate, in place of an optimizer whose steps depend on the size of the gradient."""
    if _rate(about).is_adaptive is not False:
        return []
    why = "It scales each step by the gradient's own size (Kingma and Ba 2015)."
    lr = rounded(usual_adaptive(_rate(about).num_steps))
    return [Remedy(f"optimizer=adam {LR}={lr:.3g}", why, f"torch.optim.Adam(model.parameters(), lr={lr:.3g})")]


def search_lr(about: About) -> list[Remedy]:
    """Propose the learning rate finder, for the families of stabletrain."""
    is_ours = about.choices.get("model") != CUSTOM and LR in about.settings
    return [Remedy("lr_find=true", "Tries increasing rates before the run (Smith 2017).")] if is_ours else []


def norm(about: About) -> list[Remedy]:
    """Propose the normalization that fits the family."""
    model = about.choices.get("model")
    if model == CUSTOM:
        return []
    if model in CONVOLUTIONAL:
        why = "Each channel keeps its scale over the batch (Ioffe and Szegedy 2015)."
        return [Remedy("norm=batch", why, "add torch.nn.BatchNorm2d after the convolutions", overwrites=True)]
    why = "The inputs of each layer keep their scale (Ba et al. 2016)."
    return [Remedy("norm=layer", why, "add torch.nn.LayerNorm after the layers", overwrites=True)]


def initialization(about: About) -> list[Remedy]:
    """Propose the initialization that matches the activation."""
    if is_recurrent(about):
        return recurrent_initialization()
    activation = about.choices.get("activation")
    if about.choices.get("model") == "transformer":
        return [XAVIER]
    if activation == "selu":
        return [_init("lecun", "The initialization that SELU assumes (Klambauer et al. 2017).")]
    if activation in RELU_LIKE or (not about.choices and not is_saturating(about)):
        return [HE]
    return [XAVIER]


def rectified(about: About) -> list[Remedy]:
    """Propose ReLU with the initialization that matches it, for networks that saturate."""
    model = about.choices.get("model")
    if not is_saturating(about) or model == CUSTOM or is_recurrent(about):
        return []
    why = "A slope of 1 for half of all inputs, and weights that preserve it (Glorot et al. 2011; He et al. 2015)."
    call = 'st.replace_activations_(model, "relu") with st.initialize_(model, "he")'
    return [Remedy("activation=relu init=he", why, call, overwrites=True)]


def recurrent_initialization() -> list[Remedy]:
    """Propose orthogonal recurrent weights."""
    return [ORTHOGONAL]


def norm_preserving(about: About) -> list[Remedy]:
    """Propose orthogonal recurrent weights, where those of the composition do not preserve norms."""
    return [ORTHOGONAL] if about.choices and _may_grow_over_time(about) else []


def gated_cell(about: About) -> list[Remedy]:
    """Propose an LSTM in place of a plain recurrent network."""
    why = "Its cell passes the gradient on unchanged (Hochreiter and Schmidhuber 1997)."
    lstm = Remedy("model=lstm", why, "use torch.nn.LSTM in place of torch.nn.RNN", overwrites=True)
    return [lstm] if about.choices.get("model") == "rnn" or not about.choices else []


def skips(about: About) -> list[Remedy]:
    """Propose residual connections, where the family accepts them and has none."""
    lacks = about.choices.get("model") in TAKING_SKIPS and about.choices.get("residual") not in SKIPS
    return [Remedy("residual=add", "A path around each layer (He et al. 2016, Identity Mappings).")] if lacks else []


def is_saturating(about: About) -> bool:
    """Return whether the activation has flat ends: by name, else by what was measured."""
    if about.choices:
        return about.choices.get("activation") in SATURATING
    return isinstance(about, Circumstances) and about.is_saturating and not about.is_rectifying


def is_recurrent(about: About) -> bool:
    """Return whether the network is recurrent: by name, else by its layers."""
    if about.choices:
        return about.choices.get("model") in RECURRENT
    return isinstance(about, Circumstances) and about.is_recurrent


def _is_part(remedy: Remedy, other: Remedy) -> bool:
    """Return whether all that a remedy sets is set by another one, which sets more."""
    return bool(remedy.words) and remedy.words.items() < other.words.items()


def _both(first: Remedy, second: Remedy) -> Remedy:
    """Return two remedies as one."""
    words, whys, calls = (f"{first[i]}{link}{second[i]}" for i, link in enumerate((" ", " ", ", and ")))
    return Remedy(words, whys, calls, overwrites=first.overwrites or second.overwrites)


def _may_grow_over_time(about: About) -> bool:
    return is_recurrent(about) and about.choices.get("init") not in NORM_PRESERVING


def _rate(about: About) -> Rate:
    if isinstance(about, Circumstances):
        return about.rate
    lr = about.settings.get(LR)
    return Rate(lr=lr if isinstance(lr, int | float) and lr > 0 else None)


def _unknown_lr(about: About, words: str, direction: int) -> list[Remedy]:
    if about.choices:
        return []
    override, call = f"{LR}={shlex.quote(words)}", f"set the optimizer's lr {words}"
    return [Remedy(override, USUAL_UPDATES, call, direction=direction)]


def is_pretrained(about: About) -> bool:
    """Return whether the weights were trained before, so that no remedy may overwrite them."""
    return isinstance(about, Circumstances) and about.is_pretrained


def _without_chosen(remedy: Remedy, about: About) -> Remedy:
    """Return the remedy without the options that the composition has; with an empty override if it has all of them."""
    words = [word for word in split(remedy.override) if not _is_chosen(word, about)]
    if len(words) == len(remedy.words):
        return remedy
    is_new = any("." not in word.partition("=")[0] for word in words)
    return remedy._replace(override=shlex.join(words) if is_new else "", whole=remedy.override)


def _is_chosen(word: str, about: About) -> bool:
    key, _, option = word.partition("=")
    return about.choices.get(key) == option
