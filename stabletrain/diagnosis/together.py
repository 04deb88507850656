"""Signs that alarm only together: each alone is seen in healthy runs, two of them where little is learned are not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from stabletrain.diagnosis.progress import Progress
from stabletrain.vocabulary.finding import Finding

SIGNS = (
    *("vanishing", "exploding", "time_vanishing", "time_exploding", "dead_units", "saturation", "bad_init"),
    *("lr_too_high", "loss_spike", "oscillation"),
)
NUM_SIGNS = 2
PATIENCE = 0.5  # of the budget


def alarm_together(findings: Sequence[Finding], progress: Progress | None) -> list[Finding]:
    """Return the findings; two signs or more become warnings where nothing alarms and the training lags."""
    signs = {f.kind for f in findings if f.kind in SIGNS}
    alarms = any(f.alarms for f in findings)
    if alarms or len(signs) < NUM_SIGNS or progress is None or not (progress.lags and progress.share >= PATIENCE):
        return [*findings]
    return [replace(f, severity="warning") if f.kind in SIGNS else f for f in findings]
