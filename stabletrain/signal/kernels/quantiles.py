"""Quantiles of many histograms at once."""

from __future__ import annotations

import numpy as np

from stabletrain.signal.kernels.jit import HAS_NUMBA, compile_


def _find_by_loops(counts, shares, found):
    """Find quantiles of |x| over the finite elements, as `Histogram.quantile` does.

    Args:
        counts: (L, 512) int32 or int64, bin sign·256 + exponent.
        shares: (Q,) float64, fraction of the elements below each quantile, 0 to 1.
        found: (L, Q) float64, filled; NaN where no element is finite.
    """
    sizes = np.empty(255, np.int64)
    for i in range(len(counts)):
        total = 0
        for k in range(255):
            sizes[k] = counts[i, k] + counts[i, k + 256]
            total += sizes[k]
        below, k = 0, 0
        for q in range(len(shares)):
            if q > 0 and shares[q] < shares[q - 1]:
                below, k = 0, 0  # else continue where the previous search ended
            target = shares[q] * total
            while k < 254 and (sizes[k] == 0 or below + sizes[k] < target):
                below += sizes[k]
                k += 1
            share = min(max((target - below) / max(sizes[k], 1), 0.0), 1.0)
            found[i, q] = np.nan if total == 0 else 0.0 if k == 0 else 2.0 ** (k - 127 + share)


def _find_by_numpy(counts, shares, found):
    """The same up to rounding, for where numba is missing. Compiled with numba, it would take twice as long."""
    for i, row in enumerate(counts):
        sizes = row[:255] + row[256:511]
        reached = np.cumsum(sizes)
        targets = shares * reached[-1]
        places = np.searchsorted(reached, np.maximum(targets, 0.5))  # 0.5: the first bin that is not empty
        if reached[-1] == 0:
            found[i] = np.nan
            continue
        inside = (targets - (reached - sizes)[places]) / sizes[places]
        found[i] = np.where(places == 0, 0.0, 2.0 ** (places - 127 + np.clip(inside, 0.0, 1.0)))


find_quantiles_ = compile_(_find_by_loops) if HAS_NUMBA else _find_by_numpy
