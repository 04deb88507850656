"""On which steps the inspectors look: a mistake in the code is there from the start."""

from __future__ import annotations

FIRST = 3  # first steps, all of which are inspected
EVERY = 100  # steps between later inspections


def is_inspected(step: int) -> bool:
    """Return whether the graph, the inputs and the outputs are inspected on `step`."""
    return step < FIRST or step % EVERY == 0
