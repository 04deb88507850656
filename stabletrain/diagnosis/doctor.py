"""The doctor: every rule over the same numbers, the cause before what follows from it."""

from __future__ import annotations

from collections.abc import Callable

from stabletrain.diagnosis.finding import Finding, worst_first
from stabletrain.diagnosis.observations import Observations

RULES: tuple[Callable[[Observations], list[Finding]], ...] = ()


def diagnose(observations: Observations) -> list[Finding]:
    """Return all findings, worst first; an empty list for a healthy run."""
    return worst_first([finding for rule in RULES for finding in rule(observations)])
