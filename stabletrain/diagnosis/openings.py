"""Which findings open and close while a run goes on, and when to look for them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

from stabletrain.vocabulary.finding import Finding

MIN_STEPS = 10  # before the first diagnosis
GROWTH = 1.25  # a diagnosis reads everything so far: with as many steps again by a quarter, their number stays small
PAUSE_FACTOR = 300.0  # a diagnosis of t seconds is followed by a pause of 300 t: it costs at most a third of a percent


class Openings:
    """Turns the findings of successive diagnoses into one line for each that opens or closes.

    Args:
        by_steps: Whether a diagnosis is also due after a quarter more steps, even if the pause is not over: of a short
            run more is said then than its time allows for.
        clock: Returns the time in seconds.

    Example:
        >>> from stabletrain.vocabulary.kinds import OSCILLATION
        >>> openings = Openings()
        >>> openings.changes(12, [Finding(OSCILLATION.name, "warning", None, 3, 12, {}, "Lower the rate.")])
        ['step 12: warning oscillation. Lower the rate.']
        >>> openings.changes(40, [])
        ['step 40: oscillation is over']
    """

    def __init__(self, *, by_steps: bool = True, clock: Callable[[], float] = time.perf_counter) -> None:
        self._open: dict[tuple[str, str | None], int] = {}  # by kind and layer: the step on which it opened
        self._by_steps, self._clock = by_steps, clock
        self._next_step, self._next_s = float(MIN_STEPS), math.inf

    def is_due(self, step: int) -> bool:
        """Return whether the run should be diagnosed again after `step`."""
        return step >= self._next_step or (step >= MIN_STEPS and self._clock() >= self._next_s)

    def note_cost(self, step: int, seconds: float) -> None:
        """Plan the next diagnosis, given what this one cost."""
        self._next_step = int(step * GROWTH) + MIN_STEPS if self._by_steps else math.inf
        self._next_s = self._clock() + PAUSE_FACTOR * seconds

    def changes(self, step: int, findings: Sequence[Finding]) -> list[str]:
        """Return the lines for what opened and closed since the last call; nothing while nothing changes."""
        alarming = {(f.kind, f.layer): f for f in findings if f.alarms}
        lines = [
            f"step {step}: {f.severity} {f.kind}{_where(f.layer)}. {f.advice}"
            for key, f in alarming.items()
            if key not in self._open
        ]
        lines += [
            f"step {step}: {kind}{_where(layer)} is over" for kind, layer in self._open if (kind, layer) not in alarming
        ]
        self._open = {key: self._open.get(key, step) for key in alarming}
        return lines

    def opened(self, finding: Finding) -> int | None:
        """Return the step on which an open finding was found first; None if it is not open."""
        return self._open.get((finding.kind, finding.layer))


def _where(layer: str | None) -> str:
    return f" in {layer}" if layer else ""
