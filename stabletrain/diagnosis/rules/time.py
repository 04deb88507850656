"""Gradients of recurrent layers that vanish or explode from time step to time step."""

from __future__ import annotations

import numpy as np

from stabletrain.diagnosis import remedies
from stabletrain.diagnosis.observations import About, Observations, Waves
from stabletrain.diagnosis.progress import progress_of, share_done
from stabletrain.diagnosis.windows import decades, stretch
from stabletrain.vocabulary.finding import Finding
from stabletrain.vocabulary.kinds import TIME_EXPLODING, TIME_VANISHING, Kind

RATIO_DECADES = 3.0  # a factor of 1,000 over the whole sequence, as over depth (AutoTrainer)
CRITICAL_DECADES = 6.0  # float32 has seven digits: smaller contributions are lost in the sum over time
STEP_DECADES = 0.2  # for short sequences, a factor of 1.6 from each step to the next
MIN_MEASUREMENTS = 3
NUM_MEASUREMENTS = 10
PERSISTENCE = 0.8
GAP = 3
PATIENCE = 0.08  # of the training budget: an LSTM first forgets, then learns to remember (Jozefowicz et al. 2015)
REVERSE = "_reverse"  # suffix of the direction that reads the sequence backwards, see signal/time_gradient


@TIME_VANISHING.rule
def find_time_vanishing(observations: Observations) -> list[Finding]:
    """Find ‖∂L/∂h_t‖ that falls by three decades or more on its way back through time.

    d = log10 max(‖∂L/∂h_t‖ over the first tenth of the steps) - log10 max(‖∂L/∂h_t‖ over the last tenth) < -3; for
    sequences of n < 15 steps, d < -0.2 n. The slope is a least-squares fit (Pascanu et al. 2013, eq. 5).
    """
    found = [_find(observations, layer, waves, TIME_VANISHING, -1) for layer, waves in observations.time.items()]
    return [finding for finding in found if finding is not None]


@TIME_EXPLODING.rule
def find_time_exploding(observations: Observations) -> list[Finding]:
    """Find ‖∂L/∂h_t‖ that grows by three decades or more on its way back through time: d > 3, or d > 0.2 n."""
    found = [_find(observations, layer, waves, TIME_EXPLODING, +1) for layer, waves in observations.time.items()]
    return [finding for finding in found if finding is not None]


def time_decades(values: np.ndarray) -> np.ndarray:
    """Return log10 of the ratio of early to late steps for each row; NaN where the loss depends on none of them.

    Args:
        values: (T, n) norms, in the order in which the steps were computed.
    """
    tenth = max(1, values.shape[1] // 10)
    early, late = decades(values[:, :tenth].max(axis=1)), decades(values[:, -tenth:].max(axis=1))
    return np.where(values.any(axis=1), early - late, np.nan)


def slope(row: np.ndarray) -> float | None:
    """Return the change of log10 of the norm per step back in time, by least squares over norms above zero."""
    backwards = row[::-1]
    places = np.flatnonzero(np.isfinite(backwards) & (backwards > 0))
    return float(np.polyfit(places, np.log10(backwards[places]), 1)[0]) if places.size > 1 else None


def _find(observations: Observations, layer: str, waves: Waves, kind: Kind, sign: int) -> Finding | None:
    values = waves.values[:, ::-1] if layer.endswith(REVERSE) else waves.values
    finite = np.isfinite(values).all(axis=1)
    gaps = time_decades(values[finite])
    known = ~np.isnan(gaps)
    steps, gaps, values = waves.steps[finite][known], gaps[known], values[finite][known]
    length = min(NUM_MEASUREMENTS, max(MIN_MEASUREMENTS, len(gaps)))
    threshold = min(RATIO_DECADES, STEP_DECADES * values.shape[1])
    found = stretch(steps, sign * gaps > threshold, PERSISTENCE, length, GAP)
    if found is None:
        return None
    start, end = found
    typical = float(np.median(gaps[start : end + 1]))
    last = values[end]
    return Finding(
        kind=kind.name,
        severity=_severity(observations, sign * typical, int(steps[-1]), int(steps[end])),
        layer=layer,
        first_step=int(steps[start]),
        last_step=int(steps[end]),
        evidence={
            "log10_ratio_early_to_late": round(typical, 2),
            "threshold": sign * threshold,
            "decades_per_step": _rounded(slope(last)),
            "time_range": _weak_range(last) if sign < 0 else [0, max(0, len(last) // 10 - 1)],
            "length": len(last),
        },
    )


def _severity(observations: Observations, size: float, step: int, end: int) -> str:
    progress = progress_of(observations)
    if progress is not None:
        is_over = end < step and size < CRITICAL_DECADES and progress.overcame(end)
        if is_over or not (progress.lags and share_done(observations, step) >= PATIENCE):
            return "info"
    return "critical" if size > CRITICAL_DECADES else "warning"


def _weak_range(row: np.ndarray) -> list[int]:
    """Return the first and last time step whose gradient is below a thousandth of the largest."""
    weak = np.flatnonzero(row < row.max() * 10**-RATIO_DECADES)
    return [int(weak[0]), int(weak[-1])] if weak.size else [0, 0]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


@TIME_VANISHING.remedy
def remedy_time_vanishing(finding: Finding, about: About) -> list[remedies.Remedy]:
    """Propose gates; where there are gates, to initialize them for the length of the sequence."""
    why = "Gates initially open for a whole sequence (Tallec and Ollivier 2018)."
    chrono = remedies.Remedy("init=chrono", why, 'st.initialize_(model, "chrono")', overwrites=True)
    first = [chrono] if about.choices.get("model") in remedies.GATED else remedies.gated_cell(about)
    return [*first, *remedies.recurrent_initialization(), *remedies.norm(about)]


@TIME_EXPLODING.remedy
def remedy_time_exploding(finding: Finding, about: About) -> list[remedies.Remedy]:
    """Propose recurrent weights that preserve norms with clipping, or gates."""
    return [*remedies.clip(about), *remedies.gated_cell(about), *remedies.lower_lr(about)]
