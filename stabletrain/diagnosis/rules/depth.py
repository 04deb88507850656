"""Vanishing and exploding gradients over depth, and a total norm that explodes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from stabletrain.diagnosis import remedies
from stabletrain.diagnosis.observations import About, Observations, Table
from stabletrain.diagnosis.progress import Progress, progress_of, share_done
from stabletrain.diagnosis.weight_tables import over_present, update_ratios, weights
from stabletrain.diagnosis.windows import FLOOR, decades, find_outliers, first_run, stretch
from stabletrain.vocabulary import metric_names as names
from stabletrain.vocabulary.finding import Finding
from stabletrain.vocabulary.kinds import EXPLODING, VANISHING, Kind
from stabletrain.vocabulary.signals import DELTA, GRADIENT

RATIO_DECADES = 3.0  # rms(first)/rms(last) < 1e-3: AutoTrainer (Zhang et al. 2021), section 4.1
CRITICAL_DECADES = 5.0  # below 1e-5 the first layers do not move at all in the useful range of float32
MIN_MEASUREMENTS = 3
MIN_LAYERS = 3  # with fewer outputs there is no depth to compare
NUM_MEASUREMENTS = 20  # the last ones, on which the condition must hold
PERSISTENCE = 0.8  # fraction of these
GAP = 5  # consecutive measurements without it end a stretch
STILL = 1e-5  # ‖ΔW‖/‖W‖: below, SageMaker Debugger and AutoTrainer consider a layer not to learn
PATIENCE = 0.03  # of the training budget, before layers that do not move raise an alarm
PATIENCE_MOVING = 0.15  # … before layers that move do: Adam moves them however small the gradient is

Z_PERSISTENCE = 5  # consecutive measurements: a single outlier batch is not an explosion (KillLossSpike)
NORM_WARMUP = 20  # measurements before the first verdict; OLMo-core's 64 would be a third of a short run


@VANISHING.rule
def find_vanishing(observations: Observations) -> list[Finding]:
    """Find first layers whose gradient stays a thousand times smaller than that of the last layers.

    d = log10 rms(first quarter) - log10 rms(last quarter) < -3, for the gradients of the weights or for those at the
    outputs of the layers (delta): a weight's gradient also depends on the scale of the layer's input.
    """
    return _find(observations, VANISHING, sign=-1)


@EXPLODING.rule
def find_exploding(observations: Observations) -> list[Finding]:
    """Find first layers whose gradient stays a thousand times larger than that of the last layers: d > 3."""
    return _find(observations, EXPLODING, sign=+1)


def depth_decades(values: np.ndarray) -> np.ndarray:
    """Return log10 of rms(first quarter)/rms(last quarter) for each row; NaN with fewer than two layers or no gradient.

    Args:
        values: (T, L) rms of gradients in forward order, NaN where nothing was measured.
    """
    return over_present(values, _gaps, least=2)


def _gaps(values: np.ndarray) -> np.ndarray:
    quarter = max(1, values.shape[1] // 4)
    first, last = (np.median(decades(part), axis=1) for part in (values[:, :quarter], values[:, -quarter:]))
    return np.where(last > FLOOR, first - last, np.nan)  # no gradient at the last layers: no ratio


def _find(observations: Observations, kind: Kind, sign: int) -> list[Finding]:
    for signal, table in ((GRADIENT, weights(observations, GRADIENT)), (DELTA, _outputs(observations))):
        found = _find_in(table, observations, kind, sign) if table is not None else None
        if found is not None:
            return [replace(found, evidence=found.evidence | {"signal": signal})]
    return []


def _outputs(observations: Observations) -> Table | None:
    """Return the gradients at the outputs of the layers; None if there are too few layers."""
    table = observations.rms.get(DELTA)
    return table if table is not None and len(table.layers) > MIN_LAYERS else None


def _find_in(table: Table, observations: Observations, kind: Kind, sign: int) -> Finding | None:
    gaps = depth_decades(table.values)
    known = ~np.isnan(gaps)
    steps, gaps = table.steps[known], gaps[known]
    length = min(NUM_MEASUREMENTS, max(MIN_MEASUREMENTS, len(gaps)))
    found = stretch(steps, sign * gaps > RATIO_DECADES, PERSISTENCE, length, GAP)
    if found is None:
        return None
    start, end = found
    typical = float(np.median(gaps[start : end + 1]))
    still = _first_layers_stand_still(observations)
    return Finding(
        kind=kind.name,
        severity=_severity(sign * typical, still, progress_of(observations), share_done(observations, steps[-1])),
        layer=_outermost(table.layers, table.values[known][start]),
        first_step=int(steps[start]),
        last_step=int(steps[end]),
        evidence={
            "log10_ratio_first_to_last": round(typical, 2),
            "threshold": sign * RATIO_DECADES,
            "share_of_looks": round(float(np.mean(sign * gaps[start : end + 1] > RATIO_DECADES)), 3),
            "first_layers_move": not still,
        },
    )


def _severity(size: float, still: bool, progress: Progress | None, share: float) -> str:
    if progress is not None and not (progress.lags and share >= (PATIENCE if still else PATIENCE_MOVING)):
        return "info"
    return "critical" if size > CRITICAL_DECADES else "warning"


def _outermost(layers: tuple[str, ...], row: np.ndarray) -> str:
    return next(layer for layer, value in zip(layers, row, strict=True) if not np.isnan(value))


def _first_layers_stand_still(observations: Observations) -> bool:
    """Return whether the first quarter of the weights hardly moves; assumed where updates were not measured."""
    ratios = update_ratios(observations)
    if ratios is None or not len(ratios.steps):
        return True
    last = ratios.values[-MIN_MEASUREMENTS:, : max(1, len(ratios.layers) // 4)]
    return bool(np.nanmedian(last) < STILL) if not np.isnan(last).all() else True


@EXPLODING.rule
def find_norm_explosion(observations: Observations) -> list[Finding]:
    """Find a total norm that is far above its own past for five consecutive measurements.

    z = (log10 n - median) / (1.4826 MAD) > 6 over the last 128 measurements. It alarms only while it lasts.
    """
    norms = observations.scalars.get(names.NORM_TOTAL)
    if norms is None:
        return []
    flags = find_outliers(decades(norms.values).tolist(), warmup=NORM_WARMUP)
    start = first_run(flags, Z_PERSISTENCE)
    if start is None:
        return []
    progress = progress_of(observations)
    goes_on = bool(flags[-Z_PERSISTENCE:].mean() >= PERSISTENCE)
    alarms = goes_on and (progress is None or progress.suffers)
    largest = float(norms.values[start:].max())
    return [
        Finding(
            kind=EXPLODING.name,
            severity="warning" if alarms else "info",
            layer=None,
            first_step=int(norms.steps[start]),
            last_step=int(norms.steps[np.flatnonzero(flags)[-1]]),
            evidence={"largest_norm": largest, "usual_norm": float(np.median(norms.values[:start])), "threshold_z": 6},
        )
    ]


@VANISHING.remedy
def remedy_vanishing(finding: Finding, about: About) -> list[remedies.Remedy]:
    """Propose gates for recurrent networks, else an activation that does not saturate, scale and skips."""
    if remedies.is_recurrent(about):
        return [*remedies.gated_cell(about), *remedies.recurrent_initialization(), *remedies.norm(about)]
    scale = [*remedies.initialization(about), *remedies.norm(about)]
    return [*remedies.rectified(about), *scale, *remedies.skips(about), remedies.LSUV]


@EXPLODING.remedy
def remedy_exploding(finding: Finding, about: About) -> list[remedies.Remedy]:
    """Propose what keeps the scale, then clipping, which bounds the steps but not the activations."""
    scale = [] if remedies.is_recurrent(about) else remedies.initialization(about)
    return [*scale, *remedies.clip(about), *remedies.norm(about), *remedies.lower_lr(about)]
