"""One remedy for all that was found together, for a model that stabletrain did not compose.

A fault hides others: with inputs and targets off scale, to standardize one of them changes nothing, and a learning rate
that was chosen for an activation that does not fit is wrong once it is removed.
"""

from __future__ import annotations

from collections.abc import Sequence

from stabletrain.diagnosis.circumstances import Circumstances
from stabletrain.diagnosis.client_words import in_words_of
from stabletrain.diagnosis.observations import About
from stabletrain.diagnosis.rates import LEAST_CHANGE, rounded
from stabletrain.diagnosis.remedies import LR, USUAL_UPDATES, Remedy, adam, is_too_short, longer, remedies_for, set_lr
from stabletrain.vocabulary.finding import Finding
from stabletrain.vocabulary.kinds import (
    INPUT_SCALE,
    LR_TOO_HIGH,
    LR_TOO_LOW,
    NO_PROGRESS,
    NONFINITE,
    OSCILLATION,
    OUTPUT_ACTIVATION,
    SHAPE_MISMATCH,
    TARGET_SCALE,
)
from stabletrain.vocabulary.notice import CERTAINTY
from stabletrain.vocabulary.origins import advice_for

CHANGING = tuple(kind.name for kind in (INPUT_SCALE, TARGET_SCALE, OUTPUT_ACTIVATION, SHAPE_MISMATCH))
REPLACED = tuple(kind.name for kind in (LR_TOO_HIGH, LR_TOO_LOW, NONFINITE))  # whose remedies rest on the updates
DIRECTIONS = {LR_TOO_HIGH.name: -1, OSCILLATION.name: -1, LR_TOO_LOW.name: +1}  # in which advice moves the rate
UNFINISHED = (LR_TOO_LOW.name, NO_PROGRESS.name, LR_TOO_HIGH.name)  # smaller steps take more of them


def joint_remedy(findings: Sequence[Finding], about: About) -> Remedy | None:
    """Return what fixes all causes among the findings as one remedy; None if that is what the first one says.

    The causes' own first remedies belong together, as long as they do not contradict each other. Where a cause changes
    what the optimizer sees, such as inputs off scale, the present updates say nothing about the learning rate: one far
    from the usual is then set to it. A training of few steps that has learned little by its end is to be longer.
    """
    causes = [f for f in findings if f.alarms and f.because_of is None]
    if not causes or _is_event(causes[0]):
        return None
    changes = any(f.kind in CHANGING for f in causes)
    parts: list[Remedy] = []
    for cause in sorted(causes, key=lambda f: f.kind not in CHANGING):
        proposed = [] if changes and cause.kind in REPLACED else remedies_for(cause, about)
        first = next((remedy for remedy in proposed if remedy.in_code), None)
        is_against = first is not None and LR in first.words and first.direction not in _directions(causes)
        if first is not None and not _is_event(cause) and not is_against and not _clashes(first, parts):
            parts.append(first)
    changes = changes or any(part.overwrites for part in parts)
    is_exact = any(CERTAINTY in f.evidence and f.kind not in CHANGING for f in causes)  # a line of the code is wrong
    if not is_exact and not any(LR in part.words for part in parts):
        parts += [r for r in _usual_rate(about, is_measured=not changes) if r.direction in _directions(causes)]
    if not is_exact:
        parts += [remedy for remedy in _longer(findings, about) if not _clashes(remedy, parts)]
    is_said = not (changes and causes[0].kind in REPLACED)  # by the first finding itself
    if not parts or (len(parts) == 1 and is_said):
        return None
    override = " ".join(part.override for part in parts if part.override)
    direction = next((part.direction for part in parts if LR in part.words), -1)
    overwrites = any(part.overwrites for part in parts)
    why = " ".join(dict.fromkeys(part.why for part in parts if part.why))
    return Remedy(override, why, ", and ".join(part.in_code for part in parts), overwrites, direction)


def _is_event(cause: Finding) -> bool:
    """Return whether a cause has a remedy that nothing else belongs to: an operation, or a rate that rose."""
    return "lr_before" in cause.evidence or bool(advice_for(cause.evidence))


def _directions(causes: Sequence[Finding]) -> tuple[int, ...]:
    """Return in which directions the rate may be moved: that of the first cause which says one, else either."""
    said = [DIRECTIONS[cause.kind] for cause in causes if cause.kind in DIRECTIONS]
    return (said[0],) if said else (-1, +1)


def _clashes(remedy: Remedy, parts: Sequence[Remedy]) -> bool:
    """Return whether a remedy is one of the parts, or sets what one of them sets."""
    known = {key for part in parts for key in part.words}
    return bool(known & set(remedy.words)) or remedy.in_code in (part.in_code for part in parts)


def _usual_rate(about: About, is_measured: bool) -> list[Remedy]:
    """Propose the usual rate, where the present one is far from it.

    Args:
        about: What is known of the run.
        is_measured: Whether the present updates still say what a rate does to the weights. They must then agree.
    """
    if not isinstance(about, Circumstances) or (usual := about.rate.usual) is None:
        return []
    rate, distance = about.rate, about.rate.distance
    if 1 / LEAST_CHANGE < distance < LEAST_CHANGE:
        return []
    is_high, says_high = distance > 1, rate.is_above_target
    trusts = is_measured or bool(rate.is_adaptive)  # the steps of Adam do not depend on the size of the gradient
    if trusts and says_high is not None and says_high != is_high:
        return []
    direction = -1 if is_high else +1
    if not is_measured and rate.is_adaptive is False:  # a rate of gradient descent depends on the size of the gradient
        found = [remedy._replace(direction=direction) for remedy in adam(about)]
    else:
        found = set_lr(rounded(usual), USUAL_UPDATES, direction)
    return [remedy._replace(in_code=in_words_of(about, remedy.override, remedy.in_code)) for remedy in found]


def _longer(findings: Sequence[Finding], about: About) -> list[Remedy]:
    """Propose to train for longer, where a short training ends with little learned, or is too short for any network."""
    is_unfinished = any((f.alarms or f.because_of) and f.kind in UNFINISHED for f in findings)
    return longer(about) if is_unfinished or is_too_short(about) else []
