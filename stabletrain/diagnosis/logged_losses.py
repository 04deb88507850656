"""Statistics of losses whose scale, noise and starting point are not known, as those in the log of another tool.

The rules compare with the loss of chance level, or with the first loss. Where a training starts well, or its loss may
be negative, noise alone is as large as that. Here noise is measured by the change from one loss to the next. The limits
were chosen on 305 trainings of 17 tasks (benchmarks/doctor/wide), of which only losses, rates and norms were read.
"""

from __future__ import annotations

import numpy as np

from stabletrain.diagnosis.progress import running_medians

MIN_LOSSES = 5  # of fewer, no level can be told from noise
DIFFERENCE = 0.954  # median of |x - y| in standard deviations, for two normal numbers
ERROR_OF_MEDIAN = 1.25  # standard error of the median of n normal numbers, in standard deviations over √n
MARGIN = 0.05  # of the range of a loss that may be negative: its lowest level is this much above zero
RELAPSED = 5.0  # standard errors by which a loss is above its lowest level: healthy fine-tunings have up to 3.6
WIDENED = 2.0  # swings of the last third in deviations of the first one: from 0.6 to 1.4 without a change
DIVERGED = 10.0  # times the range of its beginning: an alarm even for a loss that may be negative


def above_zero(losses: np.ndarray) -> np.ndarray:
    """Return losses that may be negative, such as a log-likelihood, as distances from their lowest level.

    Rules that divide by the first loss would otherwise divide by a number around zero. Where it is zero, the smallest
    other one stands for it.
    """
    low, high = np.quantile(losses, (0.01, 0.99))
    found = losses - low + MARGIN * (high - low) if low < 0 else losses
    if found[0] != 0 or not found.any():
        return found
    return np.concatenate([[np.abs(found[found != 0]).min()], found[1:]])


def fall_of(losses: np.ndarray) -> tuple[float, bool]:
    """Return by which share the loss was lower at its best than when it was first logged, and if that is no noise.

    The median of the first five losses is compared with the lowest median of a tenth of them, at two standard errors.
    """
    width = _width(losses)
    first, lowest = float(np.median(losses[:MIN_LOSSES])), float(running_medians(losses, width).min())
    error = ERROR_OF_MEDIAN * deviation(losses) * (1 / MIN_LOSSES + 1 / width) ** 0.5
    return (first - lowest) / max(abs(first), 1e-30), first - lowest > 2 * error


def has_relapsed(losses: np.ndarray) -> bool:
    """Return whether the last tenth is above the lowest tenth by more than noise."""
    width = _width(losses)
    levels = running_medians(losses, width)
    best = int(levels.argmin())
    error = ERROR_OF_MEDIAN * deviation(losses[: best + width]) * (2 / width) ** 0.5
    return float(np.median(losses[-width:]) - levels[best]) > RELAPSED * error


def swings_widened(losses: np.ndarray) -> bool:
    """Return whether the loss swings more widely in its last third than in its first one.

    If it does not, the swings may be those from batch to batch.
    """
    third = max(MIN_LOSSES, len(losses) // 3)
    low, high = np.quantile(losses[-third:], (0.16, 0.84))
    return float(high - low) / 2 > WIDENED * deviation(losses[:third])


def has_diverged(losses: np.ndarray) -> bool:
    """Return whether the last tenth is far outside the range of the first one."""
    width = _width(losses)
    first = losses[:width]
    return float(np.median(losses[-width:]) - first.max()) > DIVERGED * float(np.ptp(first))


def deviation(losses: np.ndarray) -> float:
    """Return the standard deviation of a loss around its course, from the median change from one to the next."""
    return float(np.median(np.abs(np.diff(losses)))) / DIFFERENCE if len(losses) > 1 else 0.0


def _width(losses: np.ndarray) -> int:
    return max(MIN_LOSSES, len(losses) // 10)
