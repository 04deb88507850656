"""Compact encodings for the page: 16 bits per cell of a grid, one byte per bin of a histogram, in base64."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from stabletrain.report.grid import Grid
from stabletrain.signal.histogram import NONFINITE_BIN, ZERO_BIN, Histogram

NONE_CODE, ZERO_CODE, FIRST_CODE = 0, 1, 2  # FIRST_CODE and above: a finite number
LAST_CODE = 0x7FFF
NONFINITE_FLAG = 0x8000
MAX_BYTE = 255


def to_base64(data: bytes | np.ndarray) -> str:
    """Return the bytes, or the bytes of an array, in base64."""
    return base64.b64encode(data if isinstance(data, bytes) else data.tobytes()).decode()


def encode_grid(grid: Grid) -> dict[str, Any]:
    """Return a grid as JSON data, with one code per cell.

    | code | meaning |
    |---|---|
    | 0 | no finite value was recorded |
    | 1 | exactly zero |
    | 2…32767 | log10 = `base + (code - 2)·quantum` |
    | + 32768 | Inf or NaN was recorded |

    Over a range of 40 orders of magnitude, the relative error of a value is at most 0.3%.
    """
    finite = np.isfinite(grid.log10)
    low, high = (float(f(grid.log10[finite])) for f in (np.min, np.max)) if finite.any() else (0.0, 0.0)
    quantum = (high - low) / (LAST_CODE - FIRST_CODE) or 1.0
    codes = np.full(grid.log10.shape, NONE_CODE, dtype="<u2")
    codes[np.isneginf(grid.log10)] = ZERO_CODE
    codes[finite] = FIRST_CODE + np.rint((grid.log10[finite] - low) / quantum).astype("<u2")
    codes[grid.nonfinite] |= NONFINITE_FLAG
    edges = [int(e) if float(e).is_integer() else float(e) for e in grid.edges]
    return {
        "rows": grid.rows,
        "edges": edges,
        "base": low,
        "quantum": quantum,
        "merged": grid.merged,
        "cells": to_base64(codes),
    }


def encode_frame(rows: Sequence[str], histograms: Mapping[str, Histogram]) -> bytes:
    """Return the histograms of one step, row by row.

    A row consists of the fraction of zeros in units of 1/255, the fraction of Inf and NaN, the first non-empty bin,
    the number of bins, and for each bin its count in units of 1/255 of the largest. A count above zero is encoded as
    at least 1, so that single elements remain visible. A row without a histogram is four zeros.
    """
    return b"".join(_encode_row(histograms.get(row)) for row in rows)


def _encode_row(histogram: Histogram | None) -> bytes:
    size = histogram.size if histogram is not None else 0
    if histogram is None or not size:
        return bytes(4)
    shares = [_up(histogram.num_zero / size), _up(histogram.num_nonfinite / size)]
    counts = histogram.counts[ZERO_BIN + 1 : NONFINITE_BIN]
    filled = np.flatnonzero(counts)
    if not filled.size:
        return bytes([*shares, 0, 0])
    low, high = int(filled[0]), int(filled[-1]) + 1
    inside = counts[low:high]
    heights = np.maximum(np.rint(inside * (MAX_BYTE / inside.max())), inside > 0).astype(np.uint8)
    return bytes([*shares, low + 1, high - low]) + heights.tobytes()


def _up(share: float) -> int:
    """Return a fraction in units of 1/255: 0 only for none, 255 only for all."""
    if share in (0.0, 1.0):
        return round(share * MAX_BYTE)
    return min(max(round(share * MAX_BYTE), 1), MAX_BYTE - 1)
