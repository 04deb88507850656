"""What remedies need to know of a run: its composition, its learning rate, and what must not be overwritten."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from stabletrain.diagnosis.observations import About, Observations
from stabletrain.diagnosis.progress import progress_of
from stabletrain.diagnosis.rates import Rate, rate_of
from stabletrain.diagnosis.weight_tables import weights
from stabletrain.vocabulary.signals import DEAD, GRADIENT, SATURATED, WEIGHT

FROZEN = 0.5  # share of the weights without a gradient: adapters, or a head on a frozen backbone
GOOD_START = 0.5  # of the prior loss: a random initialization does not begin below


@dataclass(frozen=True)
class Circumstances(About):
    """What is known of a run, with what follows from its measurements.

    Attributes:
        rate: The learning rate and the size of the updates.
        is_pretrained: Whether the weights were trained before: most are frozen, or the loss began far below its prior.
            Remedies must not overwrite them.
        is_saturating: Whether there are activations with flat ends, such as tanh and sigmoid.
        is_rectifying: Whether there are activations with units that can die, such as ReLU: layers without a
            saturating one before them.
        is_recurrent: Whether there are recurrent layers.
    """

    rate: Rate = field(default_factory=Rate)
    is_pretrained: bool = False
    is_saturating: bool = False
    is_rectifying: bool = False
    is_recurrent: bool = False


def circumstances_of(observations: Observations) -> Circumstances:
    """Return what remedies need to know of a run."""
    about = observations.about
    return Circumstances(
        **{f.name: getattr(about, f.name) for f in fields(About)},
        rate=rate_of(observations),
        is_pretrained=is_pretrained(observations),
        is_saturating=_num_layers(observations, SATURATED) > 0,
        is_rectifying=_num_layers(observations, DEAD) > _num_layers(observations, SATURATED),
        is_recurrent=bool(observations.time) or any("weight_hh" in layer for layer in _layers(observations)),
    )


def is_pretrained(observations: Observations) -> bool:
    """Return whether most weights are frozen, or the loss began far below that of the best constant prediction."""
    return _is_mostly_frozen(observations) or is_good_start(observations)


def is_good_start(observations: Observations) -> bool:
    """Return whether the first loss is below half of the prior loss; False if that is unknown."""
    prior, progress = observations.about.prior_loss, progress_of(observations)
    return progress is not None and prior is not None and 0 < progress.start < GOOD_START * prior


def _is_mostly_frozen(observations: Observations) -> bool:
    if observations.about.frozen_share > FROZEN:
        return True
    present, learning = weights(observations, WEIGHT), weights(observations, GRADIENT)
    if present is None or learning is None:
        return False
    num_frozen = len(set(present.layers) - set(learning.layers))
    return num_frozen > FROZEN * len(present.layers)


def _num_layers(observations: Observations, share_of: str) -> int:
    """Return the number of layers with such units: layers with zeros at their inputs, or with an output at its ends."""
    table = observations.units.get(share_of)
    return 0 if table is None else len(table.layers)


def _layers(observations: Observations) -> tuple[str, ...]:
    table = observations.rms.get(GRADIENT)
    return table.layers if table is not None else ()
