"""The doctor: every rule over the same numbers, causes before symptoms, each finding with its remedies."""

from __future__ import annotations

from collections.abc import Sequence

from stabletrain.diagnosis.broken_off import until_broken_off
from stabletrain.diagnosis.causes import alarm_together, excuse, order_by_cause
from stabletrain.diagnosis.observations import Observations
from stabletrain.diagnosis.plan import with_plan
from stabletrain.diagnosis.progress import progress_of
from stabletrain.vocabulary.finding import Finding
from stabletrain.vocabulary.kinds import KINDS, NONFINITE


def diagnose(observations: Observations, known: Sequence[Finding] = ()) -> list[Finding]:
    """Return all findings, worst first, each cause before its symptoms; an empty list if no rule applies.

    Args:
        observations: What was measured, of a run that is in progress or has ended.
        known: Findings from elsewhere, such as the error that ended the run.
    """
    found: list[Finding] = []
    seen = observations
    for kind in KINDS.values():
        found += [finding for rule in kind.rules for finding in rule(seen)]
        if kind is NONFINITE:  # the kinds after it judge the training alone
            seen = until_broken_off(observations, found)
    findings = order_by_cause(excuse(alarm_together([*known, *found], progress_of(observations))))
    return with_plan(findings, observations)
