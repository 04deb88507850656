"""The doctor: every rule over the same numbers, worst finding first."""

from __future__ import annotations

from collections.abc import Callable

from stabletrain.diagnosis.finding import Finding, worst_first
from stabletrain.diagnosis.observations import Observations
from stabletrain.diagnosis.rules.depth import find_exploding, find_norm_explosion, find_vanishing
from stabletrain.diagnosis.rules.nonfinite import find_nonfinite

RULES: tuple[Callable[[Observations], list[Finding]], ...] = (
    find_nonfinite,
    find_vanishing,
    find_exploding,
    find_norm_explosion,
)


def diagnose(observations: Observations) -> list[Finding]:
    """Return all findings, worst first; an empty list for a healthy run."""
    return worst_first([finding for rule in RULES for finding in rule(observations)])
