"""What the doctor says: a finding, and the verdict over all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import zip_longest
from typing import Any

KINDS = (
    "vanishing",
    "exploding",
    "time_vanishing",
    "time_exploding",
    "nonfinite",
    "dead_units",
    "saturation",
    "bad_init",
    "loss_spike",
    "oscillation",
    "no_progress",
    "lr_too_high",
    "lr_too_low",
    "clip_ineffective",
    "clip_always",
)
SEVERITIES = ("info", "warning", "critical")
INFO = SEVERITIES[0]
HEALTHY = "healthy"
BECAUSE = "because_of"  # in the evidence of what follows from another finding


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, where and since when, and what remedies it.

    Attributes:
        kind: One of `KINDS`.
        severity: One of `SEVERITIES`.
        layer: The layer at fault, or None if it is the whole model.
        first_step: First step on which it was seen.
        last_step: Last step on which it was seen.
        evidence: The numbers that show it; `because_of` names the finding that it follows from.
        advice: One sentence for a person.
        overrides: Command-line overrides that would remedy it, best first.
        reasons: Why each of them helps, with its source.
    """

    kind: str
    severity: str
    layer: str | None
    first_step: int
    last_step: int
    evidence: dict[str, Any]
    advice: str = ""
    overrides: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        assert self.kind in KINDS, self.kind
        assert self.severity in SEVERITIES, self.severity

    @property
    def alarms(self) -> bool:
        """Whether it is more than information."""
        return self.severity != INFO

    @property
    def because_of(self) -> str | None:
        """Kind of the finding that this one follows from; None if it stands for itself."""
        return self.evidence.get(BECAUSE)

    @property
    def remedies(self) -> list[tuple[str, str]]:
        """Each override with why it helps, "" where nobody said."""
        return list(zip_longest(self.overrides, self.reasons[: len(self.overrides)], fillvalue=""))

    def to_dict(self) -> dict[str, Any]:
        """Return the finding as plain JSON data, as in `findings.json`."""
        return asdict(self)


def worst_first(findings: Sequence[Finding]) -> list[Finding]:
    """Return the findings by falling severity, earlier ones first among equals."""
    return sorted(findings, key=lambda f: (-SEVERITIES.index(f.severity), f.first_step))


def by_cause(findings: Sequence[Finding]) -> list[tuple[Finding, list[Finding]]]:
    """Return the findings that stand for themselves, worst first, each with what follows from it.

    What follows from a finding that is not there stands for itself.
    """
    causes = {f.kind for f in findings if f.because_of is None}
    roots = [f for f in findings if f.because_of not in causes]
    leading: dict[str, Finding] = {}
    for root in worst_first(roots):
        leading.setdefault(root.kind, root)  # of several layers the worst one has the symptoms
    return [
        (root, [f for f in findings if f.because_of == root.kind and root is leading[root.kind]])
        for root in worst_first(roots)
    ]


def verdict_of(findings: Sequence[Finding]) -> str:
    """Return `healthy`, or the kind of the worst finding above `info`."""
    return next((f.kind for f in worst_first(findings) if f.alarms), HEALTHY)
