"""Mistakes in the code, as they were noticed in training steps (`stabletrain.inspection`)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from stabletrain.diagnosis import remedies
from stabletrain.diagnosis.observations import About, Observations
from stabletrain.diagnosis.progress import LATE_FALL, LATE_FALL_UNHEALTHY, Progress, progress_of
from stabletrain.vocabulary import metric_names as names
from stabletrain.vocabulary.finding import CRITICAL, INFO, WARNING, Finding
from stabletrain.vocabulary.kinds import (
    CLIP_INEFFECTIVE,
    GRADIENTS_ACCUMULATE,
    INPUT_SCALE,
    KINDS,
    NO_GRADIENT,
    NO_PROGRESS,
    NONFINITE,
    NOT_OPTIMIZED,
    OUTPUT_ACTIVATION,
    SHAPE_MISMATCH,
    TARGET_SCALE,
    WRONG_MODE,
    Kind,
)
from stabletrain.vocabulary.notice import (
    ADVICE,
    CERTAIN,
    CERTAINTY,
    DETAIL,
    HARMLESS,
    LIKELY,
    MEMORIZES,
    REMEDY,
    SLOWS,
    Notice,
)
from stabletrain.vocabulary.origins import ORIGIN, OVERFLOW

MISTAKES = (
    *(GRADIENTS_ACCUMULATE, NOT_OPTIMIZED, NO_GRADIENT, OUTPUT_ACTIVATION, SHAPE_MISMATCH, WRONG_MODE),
    *(INPUT_SCALE, TARGET_SCALE),
)
SCALES = (INPUT_SCALE.name, TARGET_SCALE.name)
PATIENCE = 0.1  # of the training budget, before a possible mistake is held responsible for the progress
LAST_VALIDATIONS = 3
AT_CHANCE = 0.97  # of the prior loss, as for the training loss in `find_no_progress`


def find_mistakes(kind: Kind) -> Callable[[Observations], list[Finding]]:
    """Return the rule that finds what was noticed of `kind`.

    A certain mistake raises an alarm in any case: critical where training lags, a warning where it does not. A likely
    one, such as a layer that no optimizer steps, is a warning after a tenth of the steps, and a possible one if
    training lags: only the user knows whether it was intended. Inputs and targets off scale are no mistake in
    themselves, and are harmless where training has learned well from chance level on: likely ones alarm if it lags,
    possible ones if it suffers.
    """

    def find(observations: Observations) -> list[Finding]:
        return [_finding(notice, kind, observations) for notice in observations.notices if notice.kind == kind.name]

    find.__name__ = f"find_{kind.name}"
    return find


def _finding(notice: Notice, kind: Kind, observations: Observations) -> Finding:
    detail, advice = notice.evidence.get(DETAIL, ""), notice.evidence.get(ADVICE, kind.advice)
    return Finding(
        kind=kind.name,
        severity=_severity(notice, observations),
        layer=notice.layer,
        first_step=notice.first_step,
        last_step=notice.last_step,
        evidence={key: value for key, value in notice.evidence.items() if key not in (DETAIL, ADVICE)},
        advice=f"{detail} {advice}".lstrip(),
    )


def _severity(notice: Notice, observations: Observations) -> str:
    certainty = notice.evidence.get(CERTAINTY, CERTAIN)
    if certainty == HARMLESS:
        return INFO
    overflowed = _overflowed(observations)
    if certainty != CERTAIN and overflowed is not None:
        return CRITICAL if overflowed else INFO
    progress = progress_of(observations)
    if certainty == CERTAIN:
        return CRITICAL if progress is None or _lags(progress) else WARNING
    if progress is None or progress.share < PATIENCE:
        return INFO
    if notice.kind == NO_PROGRESS.name:
        return WARNING if _learns_little(notice, progress, observations) else INFO
    if notice.evidence.get(SLOWS) or (_is_scale(notice) and _knows_chance_level(observations, progress)):
        does_harm = _lags(progress) if certainty == LIKELY else _suffers(progress)
        return WARNING if does_harm else INFO
    return WARNING if certainty == LIKELY or _lags(progress) else INFO


def _is_scale(notice: Notice) -> bool:
    """Return whether inputs or targets are off scale, rather than the same for all examples."""
    return notice.kind in SCALES and (bool(notice.evidence.get("std")) or "feature" in notice.evidence)


def _knows_chance_level(observations: Observations, progress: Progress) -> bool:
    """Return whether progress is measured from chance level: what is off scale makes the first loss large itself."""
    return bool(observations.about.prior_loss) and progress.baseline == observations.about.prior_loss


def _lags(progress: Progress) -> bool:
    """Return whether training lags; also where the loss does not show it, or the training budget is unknown."""
    if not progress.is_measure:
        return True
    return progress.lags or (not progress.is_planned and progress.fall < LATE_FALL_UNHEALTHY * progress.share)


def _suffers(progress: Progress) -> bool:
    """Return the same for a training that suffers."""
    if not progress.is_measure:
        return True
    return progress.suffers or (not progress.is_planned and progress.fall < LATE_FALL * progress.share)


def _learns_little(notice: Notice, progress: Progress, observations: Observations) -> bool:
    """Return whether training goes as with targets that have nothing to do with the inputs."""
    if not progress.is_measure:
        return False
    if notice.evidence.get(MEMORIZES):
        return progress.suffers or _is_at_chance(observations)
    return _lags(progress)


def _is_at_chance(observations: Observations) -> bool:
    """Return whether the last validation losses are not below the prior loss."""
    losses, prior = observations.scalars.get(names.VAL_LOSS), observations.about.prior_loss
    if losses is None or prior is None or not len(losses.values):
        return False
    return float(np.median(losses.values[-LAST_VALIDATIONS:])) > AT_CHANCE * prior


def _overflowed(observations: Observations) -> bool | None:
    """Return whether a non-finite value stems from an overflow; None without any whose origin is known."""
    origins = [notice.evidence.get(ORIGIN) for notice in observations.notices if notice.kind == NONFINITE.name]
    return any(origin == OVERFLOW for origin in origins) if origins else None


def remedy_mistake(finding: Finding, about: About) -> list[remedies.Remedy]:
    """Propose the line that fixes it, in the user's own code; no option of a composition does."""
    if about.choices:
        return []
    return [remedies.Remedy("", "", finding.evidence.get(REMEDY, KINDS[finding.kind].in_code))]


for _kind in MISTAKES:
    _kind.rule(find_mistakes(_kind))
    _kind.remedy(remedy_mistake)
for _kind in (CLIP_INEFFECTIVE, NO_PROGRESS):  # clipping in the wrong place; targets that inputs do not determine
    _kind.rule(find_mistakes(_kind))
