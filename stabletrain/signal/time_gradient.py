"""The gradient of the loss with respect to the states of a recurrent layer: plain numbers, without torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

REVERSE = "_reverse"  # suffix of the backward direction, as in the parameter names of torch


@dataclass(frozen=True, eq=False)
class TimeGradient:
    """‖∂L/∂h_t‖ for each t, along every path from h_t to the loss: through its output and through later states.

    Attributes:
        layer: Module path, stacked layer and direction, such as `rnn.l0` or `rnn.l1_reverse`.
        norms: (T,) float64, 2-norms over batch and units, at positions t = 0 … T-1 of the sequence.
    """

    layer: str
    norms: np.ndarray

    @property
    def backwards(self) -> np.ndarray:
        """The norms in the order of backpropagation, from the state that was computed last to the first."""
        return self.norms if self.layer.endswith(REVERSE) else self.norms[::-1]

    @property
    def decades_per_step(self) -> float | None:
        """Slope of log10 of the norm per step of backpropagation, by least squares; None with fewer than two norms.

        If it is negative, the gradient vanishes over time; if positive, it explodes. Each step multiplies the norm by
        10**decades_per_step. Steps whose norm is zero or not finite are left out.
        """
        places = np.flatnonzero(np.isfinite(self.backwards) & (self.backwards > 0))
        if places.size < 2:
            return None
        return float(np.polyfit(places, np.log10(self.backwards[places]), 1)[0])

    @property
    def ratio(self) -> float | None:
        """Norm at the first computed state over that at the last; None if one is not finite or the last is 0."""
        first, last = float(self.backwards[-1]), float(self.backwards[0])
        return first / last if math.isfinite(first) and math.isfinite(last) and last > 0 else None
