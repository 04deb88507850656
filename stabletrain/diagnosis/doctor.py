"""The doctor: every rule over the same numbers, the cause before what follows from it, and what to do."""

from __future__ import annotations

from collections.abc import Callable

from stabletrain.diagnosis.causes import order_by_cause
from stabletrain.diagnosis.observations import Observations
from stabletrain.diagnosis.progress import progress_of
from stabletrain.diagnosis.remedies import with_remedies
from stabletrain.diagnosis.rules.clipping import find_clip_always, find_clip_ineffective
from stabletrain.diagnosis.rules.depth import find_exploding, find_norm_explosion, find_vanishing
from stabletrain.diagnosis.rules.loss import find_loss_spike, find_no_progress, find_oscillation
from stabletrain.diagnosis.rules.nonfinite import find_nonfinite
from stabletrain.diagnosis.rules.rate import find_lr_too_high, find_lr_too_low
from stabletrain.diagnosis.rules.start import find_bad_init
from stabletrain.diagnosis.rules.time import find_time_exploding, find_time_vanishing
from stabletrain.diagnosis.rules.units import find_dead_units, find_saturation
from stabletrain.diagnosis.together import alarm_together
from stabletrain.vocabulary.finding import Finding

RULES: tuple[Callable[[Observations], list[Finding]], ...] = (
    find_nonfinite,
    find_bad_init,
    find_lr_too_high,
    find_dead_units,
    find_saturation,
    find_time_exploding,
    find_time_vanishing,
    find_exploding,
    find_norm_explosion,
    find_vanishing,
    find_loss_spike,
    find_oscillation,
    find_lr_too_low,
    find_clip_ineffective,
    find_clip_always,
    find_no_progress,
)


def diagnose(observations: Observations) -> list[Finding]:
    """Return all findings, worst first and each cause before what follows from it; an empty list for a quiet run."""
    found = [finding for rule in RULES for finding in rule(observations)]
    findings = order_by_cause(alarm_together(found, progress_of(observations)))
    return [with_remedies(finding, observations.about) for finding in findings]
