"""Steps that the optimizer should not take, because a gradient or the loss contains Inf or NaN; never by their size."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from stabletrain.signal.layer_statistics import LayerStatistics, Measures

MAX_NAMED = 10


class Skipped:
    """Counts skipped steps, and keeps the first ones with what was not finite.

    Attributes:
        count: Number of skipped steps.

    Example:
        >>> skipped = Skipped()
        >>> skipped.note(7, math.nan, ()), skipped.note(8, 0.5, ())
        (True, False)
        >>> skipped.describe()
        ['1 step was skipped, which was not finite: 7 (loss)']
    """

    def __init__(self) -> None:
        self.count = 0
        self._first: list[tuple[int, str]] = []

    def note(self, step: int, loss: Tensor | float | None, gradients: Sequence[LayerStatistics]) -> bool:
        """Return whether a step is to be skipped, and remember it."""
        where = _find(loss, gradients)
        if where is None:
            return False
        self.count += 1
        if len(self._first) < MAX_NAMED:
            self._first.append((step, where))
        return True

    def describe(self) -> list[str]:
        """Return a line that counts and names the steps; no line without one."""
        if not self.count:
            return []
        named = ", ".join(f"{step} ({where})" for step, where in self._first)
        more = ", …" if self.count > len(self._first) else ""
        were = "step was skipped, which was" if self.count == 1 else "steps were skipped, which were"
        return [f"{self.count} {were} not finite: {named}{more}"]


def _find(loss: Tensor | float | None, gradients: Sequence[LayerStatistics]) -> str | None:
    """Return the first layer whose gradient is not finite, or `loss`; None if everything is finite."""
    measures = Measures.of(gradients)
    if len(measures):
        bad = measures.arrays.num_nonfinite > 0
        if bad.any():
            return measures.layers[int(bad.argmax())]
    return "loss" if loss is not None and not math.isfinite(float(loss)) else None
