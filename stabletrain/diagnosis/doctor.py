"""The doctor: every rule over the same numbers, causes before symptoms, each finding with its remedies."""

from __future__ import annotations

from stabletrain.diagnosis.causes import alarm_together, order_by_cause
from stabletrain.diagnosis.observations import Observations
from stabletrain.diagnosis.progress import progress_of
from stabletrain.diagnosis.remedies import with_remedies
from stabletrain.vocabulary.finding import Finding
from stabletrain.vocabulary.kinds import KINDS


def diagnose(observations: Observations) -> list[Finding]:
    """Return all findings, worst first, each cause before its symptoms; an empty list if no rule applies.

    Args:
        observations: What was measured, of a run that is in progress or has ended.
    """
    found = [finding for kind in KINDS.values() for rule in kind.rules for finding in rule(observations)]
    findings = order_by_cause(alarm_together(found, progress_of(observations)))
    return [with_remedies(finding, observations.about) for finding in findings]
