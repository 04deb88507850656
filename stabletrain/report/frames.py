"""Choose the steps whose histograms are shown."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from stabletrain.record.reader import Record
from stabletrain.report.pictures.curves import nonfinite_steps
from stabletrain.signal.histogram import Histogram


def frame_steps(record: Record, histograms: Mapping[str, Mapping[int, Histogram]], max_frames: int) -> list[int]:
    """Return evenly spaced steps with histograms; always the first, the last and those around the first Inf or NaN."""
    steps = sorted({step for by_step in histograms.values() for step in by_step})
    if len(steps) <= max_frames:
        return steps
    wanted = {0, len(steps) - 1}
    bad = nonfinite_steps(record)
    if bad:
        place = int(np.searchsorted(steps, bad[0]))
        wanted |= {max(place - 1, 0), min(place, len(steps) - 1)}
    even = np.linspace(0, len(steps) - 1, max(max_frames + 2 - len(wanted), 2)).round().astype(int)
    return [steps[k] for k in sorted(wanted | set(even.tolist()))]
