"""What was seen during training itself, and cannot be inferred from statistics afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

CERTAIN, LIKELY, POSSIBLE, HARMLESS = CERTAINTIES = ("certain", "likely", "possible", "harmless")
CERTAINTY = "certainty"  # in the evidence: a mistake; one if training lags; one if training suffers; worth knowing only
DETAIL = "detail"  # in the evidence: what was seen, in one sentence
ADVICE = "advice"  # in the evidence: what to do, where the kind's own advice does not fit
REMEDY = "remedy"  # in the evidence: the line of code that fixes it, where it is more exact than the kind's own
SLOWS = "slows"  # in the evidence: whether it only makes training slower, so that it must be shown to have done so
MEMORIZES = "memorizes"  # in the evidence: whether the loss falls, although nothing connects targets and inputs


@dataclass(frozen=True)
class Notice:
    """A fact about a training step, such as a parameter that no optimizer steps. A rule turns it into a finding.

    Attributes:
        kind: Name of one of `vocabulary.kinds.KINDS`.
        first_step: First step on which it was seen.
        last_step: Last step on which it was seen.
        layer: Name of the layer where it was seen, or None for the whole model.
        evidence: What was seen, as plain JSON data.
    """

    kind: str
    first_step: int
    last_step: int
    layer: str | None = None
    evidence: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON data."""
        return asdict(self)

    def until(self, step: int) -> Notice:
        """Return what was known of it after `step`, which is not before its first step."""
        return replace(self, last_step=min(self.last_step, step))


def join(notices: tuple[Notice, ...], new: Notice) -> tuple[Notice, ...]:
    """Return the notices with a new one; of the same kind and layer, the first one stays and is extended."""
    known = {(n.kind, n.layer): n for n in notices}
    old = known.get((new.kind, new.layer), new)
    extended = replace(old, first_step=min(old.first_step, new.first_step), last_step=max(old.last_step, new.last_step))
    return (*(n for n in notices if n is not old), extended)


def keep_notices(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata of a run as written last, with the notices that were written before.

    A run that is resumed begins a new file, whose metadata knows nothing of what was seen until then.
    """
    known: tuple[Notice, ...] = ()
    for fields in [*before.get("notices", []), *after.get("notices", [])]:
        known = join(known, Notice(**fields))
    return {**after, "notices": [notice.to_dict() for notice in known]} if known else dict(after)
