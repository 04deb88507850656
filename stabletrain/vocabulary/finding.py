"""What the doctor reports: a finding, and the verdict over all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import zip_longest
from typing import Any

from stabletrain.vocabulary.kinds import KINDS

INFO, WARNING, CRITICAL = SEVERITIES = ("info", "warning", "critical")
HEALTHY = "healthy"  # the verdict on a run without an alarm
UNKNOWN = "unknown"  # … of which too little was seen to call it healthy; it is not unhealthy either
BECAUSE = "because_of"  # in the evidence of a finding that follows from another one
RECOVERED = "recovered"  # … of a loss spike: whether the loss came back
GROWS = "grows"  # … of an initialization: whether it makes the signal larger
SUFFICES = "suffices_alone"  # … of one that needs no other cause


@dataclass(frozen=True)
class Finding:
    """One problem of a training run: where it is, since when, and what remedies it.

    Attributes:
        kind: Name of one of `vocabulary.kinds.KINDS`.
        severity: One of `SEVERITIES`.
        layer: Name of the layer where it begins, or None for the whole model.
        first_step: First step on which it was measured.
        last_step: Last step on which it was measured.
        evidence: The measured numbers and their thresholds; `because_of` names the kind that this finding follows from.
        advice: What to do, in one sentence.
        overrides: Command-line overrides that would remedy it, best first. Each is a fragment of a command line: what
            belongs together is one remedy, such as `activation=relu init=he`.
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
        """Whether its severity is above `info`."""
        return self.severity != INFO

    @property
    def because_of(self) -> str | None:
        """Kind of the finding that this one follows from; None for a cause."""
        return self.evidence.get(BECAUSE)

    @property
    def remedies(self) -> list[tuple[str, str]]:
        """Each override with the reason why it helps; "" for an override without one."""
        return list(zip_longest(self.overrides, self.reasons[: len(self.overrides)], fillvalue=""))

    def to_dict(self) -> dict[str, Any]:
        """Return the finding as plain JSON data, as in `findings.json`."""
        return asdict(self)


def worst_first(findings: Sequence[Finding]) -> list[Finding]:
    """Return the findings by decreasing severity; among equals, the earlier first."""
    return sorted(findings, key=lambda f: (-SEVERITIES.index(f.severity), f.first_step))


def by_cause(findings: Sequence[Finding]) -> list[tuple[Finding, list[Finding]]]:
    """Return the causes, worst first, each with the findings that follow from it.

    A finding whose cause is not among `findings` is returned as a cause itself.
    """
    causes = {f.kind for f in findings if f.because_of is None}
    roots = [f for f in findings if f.because_of not in causes]
    leading: dict[str, Finding] = {}
    for root in worst_first(roots):
        leading.setdefault(root.kind, root)  # of several layers, the worst one lists the symptoms
    return [
        (root, [f for f in findings if f.because_of == root.kind and root is leading[root.kind]])
        for root in worst_first(roots)
    ]


def verdict_of(findings: Sequence[Finding], is_unknown: bool = False) -> str:
    """Return the kind of the worst finding above `info`; without one `healthy`, or `unknown` if too little was seen."""
    return next((f.kind for f in worst_first(findings) if f.alarms), UNKNOWN if is_unknown else HEALTHY)
