"""The gradient of the loss by a recurrent layer's states, step by step: numbers only, no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

REVERSE = "_reverse"  # ends the name of a direction that reads the sequence backwards, as in torch's parameters


@dataclass(frozen=True, eq=False)
class TimeGradient:
    """‖∂L/∂h_t‖ for each t, along every path from h_t to the loss: through its output and through later states.

    Attributes:
        layer: Module path, stacked layer and direction, such as `rnn.l0` or `rnn.l1_reverse`.
        norms: (T,) float64, 2-norm over the batch and the units, at the places t = 0 … T-1 of the sequence.
    """

    layer: str
    norms: np.ndarray

    @property
    def backwards(self) -> np.ndarray:
        """The norms from the state that was computed last to the one computed first: the way of the chain rule."""
        return self.norms if self.layer.endswith(REVERSE) else self.norms[::-1]

    @property
    def decades_per_step(self) -> float | None:
        """Change of log10 of the norm from one step to the one before it, by least squares; None without two norms.

        Below 0 the gradient vanishes over time, above 0 it explodes; 10**decades_per_step is the factor of one step.
        Steps whose norm is zero or not finite are left out.
        """
        places = np.flatnonzero(np.isfinite(self.backwards) & (self.backwards > 0))
        if places.size < 2:
            return None
        return float(np.polyfit(places, np.log10(self.backwards[places]), 1)[0])

    @property
    def ratio(self) -> float | None:
        """Norm at the state computed first over that at the one computed last; None if that is zero or not finite."""
        first, last = float(self.backwards[-1]), float(self.backwards[0])
        return first / last if math.isfinite(first) and math.isfinite(last) and last > 0 else None
