"""Where a training really ended: at a non-finite value that no setting of the training explains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from stabletrain.diagnosis.observations import Observations
from stabletrain.vocabulary import metric_names as names
from stabletrain.vocabulary.finding import Finding
from stabletrain.vocabulary.kinds import NONFINITE
from stabletrain.vocabulary.origins import stands_for_itself
from stabletrain.vocabulary.signals import GRADIENT

FIELDS = ("rms", "nonfinite", "units", "time", "scalars")


def until_broken_off(observations: Observations, findings: Sequence[Finding]) -> Observations:
    """Return the measurements before a non-finite value that ended the training; all of them if none did.

    With NaN in the weights nothing is trained any more. Steps of size zero, a loss that stays where it is, and whatever
    else is measured from then on follow from that value, and say nothing about the learning rate or the
    initialization. A value that a rate or an initialization may explain, such as an overflow, ends nothing here.

    What was noticed in the steps themselves stays, such as a mistake in the code.

    Args:
        observations: What was measured.
        findings: What the rule of non-finite values found in it.
    """
    ends = [f.first_step for f in findings if f.kind == NONFINITE.name and f.alarms and stands_for_itself(f.evidence)]
    if not ends or not _is_still_bad(observations):
        return observations
    before = observations.until(min(ends) - 1)
    kept: dict[str, Any] = {name: _present(getattr(before, name)) for name in FIELDS}
    counts = observations.scalars.get(names.TRAIN_NONFINITE)
    if counts is not None:
        kept["scalars"][names.TRAIN_NONFINITE] = counts  # that the training broke off
    return replace(before, notices=observations.notices, **kept)


def _is_still_bad(observations: Observations) -> bool:
    """Return whether the gradient is not finite where it was measured last; a single bad step may have been skipped."""
    counts = observations.nonfinite.get(GRADIENT)
    return counts is None or not len(counts.steps) or bool(np.nan_to_num(counts.values[-1]).any())


def _present(parts: Mapping[str, Any]) -> dict[str, Any]:
    return {key: part for key, part in parts.items() if len(part.steps)}
