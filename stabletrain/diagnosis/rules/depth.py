"""Vanishing and exploding gradients over depth, and a total norm that takes off."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

from stabletrain.diagnosis.finding import Finding
from stabletrain.diagnosis.observations import Observations
from stabletrain.diagnosis.remedies import advise
from stabletrain.diagnosis.windows import robust_z_scores
from stabletrain.signal.snapshot import LayerStatistics, Snapshot

RATIO_DECADES = 3.0  # rms(first)/rms(last) < 1e-3: AutoTrainer (Zhang et al. 2021), section 4.1
CRITICAL_DECADES = 5.0  # below 1e-5 the first layers do not move at all in float32's useful range
MIN_SNAPSHOTS = 3
PERSISTENCE = 0.8  # share of the snapshots
FLOOR = -45.0  # log10 of float32's smallest subnormal: a gradient of exactly zero counts as this

Z_LIMIT = 6.0  # OLMo-core's spike rule: robust z of the log norm
Z_PERSISTENCE = 5  # in a row: a single outlier batch is not an explosion


def depth_decades(snapshot: Snapshot) -> float | None:
    """Return log10(rms(first layer) / rms(last layer)), or None if there are not two layers with a gradient."""
    layers = _measured(snapshot)
    if len(layers) < 2 or not any(x.rms for x in layers):
        return None
    first, last = layers[0].rms, layers[-1].rms
    return _log10(first) - _log10(last)


def _measured(snapshot: Snapshot) -> list[LayerStatistics]:
    return [x for x in snapshot.layers if x.rms is not None]


def _log10(value: float | None) -> float:
    return max(math.log10(value), FLOOR) if value else FLOOR


def find_vanishing(observations: Observations) -> list[Finding]:
    """Find a first layer whose gradient stays a thousand times below the last layer's."""
    return _find(observations, "vanishing", sign=-1)


def find_exploding(observations: Observations) -> list[Finding]:
    """Find a first layer whose gradient stays a thousand times above the last layer's."""
    return _find(observations, "exploding", sign=+1)


def _find(observations: Observations, kind: str, sign: int) -> list[Finding]:
    measured = [(s, d) for s in observations.snapshots if (d := depth_decades(s)) is not None]
    beyond = [(s, d) for s, d in measured if sign * d > RATIO_DECADES]
    if len(measured) < MIN_SNAPSHOTS or len(beyond) < PERSISTENCE * len(measured):
        return []
    typical = median(d for _, d in measured)
    return [
        Finding(
            kind=kind,
            severity="critical" if sign * typical > CRITICAL_DECADES else "warning",
            layer=_measured(beyond[0][0])[0].layer,
            first_step=beyond[0][0].step,
            last_step=beyond[-1][0].step,
            evidence={
                "log10_ratio_first_to_last": round(typical, 2),
                "threshold": sign * RATIO_DECADES,
                "share_of_snapshots": round(len(beyond) / len(measured), 3),
            },
            **advise(kind, observations.choices),
        )
    ]


def find_norm_explosion(observations: Observations) -> list[Finding]:
    """Find a total norm that stands far above its own past for several measurements in a row.

    The score is z = (log10 n - median) / (1.4826 MAD) over the last 128 measurements, after 64 of them.
    """
    steps = sorted(s for s, norm in observations.norms.items() if math.isfinite(norm))
    scores = robust_z_scores([math.log10(max(observations.norms[s], 10**FLOOR)) for s in steps])
    start = _first_run([z is not None and z > Z_LIMIT for z in scores], Z_PERSISTENCE)
    if start is None:
        return []
    last = max(i for i, z in enumerate(scores) if z is not None and z > Z_LIMIT)
    return [
        Finding(
            kind="exploding",
            severity="warning",
            layer=None,
            first_step=steps[start],
            last_step=steps[last],
            evidence={"largest_norm": max(observations.norms[s] for s in steps[start:]), "threshold_z": Z_LIMIT},
            **advise("exploding", observations.choices),
        )
    ]


def _first_run(flags: Sequence[bool], length: int) -> int | None:
    run = 0
    for index, flag in enumerate(flags):
        run = run + 1 if flag else 0
        if run == length:
            return index - length + 1
    return None
