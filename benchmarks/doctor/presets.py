"""Published rules, reimplemented on the statistics that stabletrain records, to run on the same recordings.

The originals use other statistics: means of |g| are replaced by the root mean square, fractions of zero elements by
fractions of dead units, and an epoch by the time between two validations. Each rule alarms as described in its source,
wherever in the run it holds; settings that a source leaves to its user (a metric that is good enough) are off. Numbers
marked [M] are from memory of the documentation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from stabletrain.diagnosis.observations import Observations, Series, Table
from stabletrain.vocabulary.finding import Finding

Rule = Callable[[Observations], Iterator[Finding]]

# AutoTrainer (Zhang et al. 2021, ICSE; its repository shiningrain/AUTOTRAINER, utils/monitor.py, default_param)
AT_RATIO, AT_NORM = 1e-3, 1e-4  # beta_1, beta_2: first over last kernel, and norm of the first
AT_EXPLODING = 70.0  # beta_3
AT_DEAD = 0.7  # gamma, fraction of zeros in all gradients
AT_SWING, AT_SWING_SHARE = 0.03, 0.2  # zeta, eta
AT_SLOW = 0.01  # delta: largest gain in accuracy from one epoch to the next
AT_GOOD = 0.7  # Theta: accuracy of a healthy run
AT_JUDGED = 0.3  # judgment_point, fraction of the epochs
AT_LOSS = 1e5

# SageMaker Debugger, list of built-in rules, default parameters
SM_VANISHING = 1e-7  # mean |g|, VanishingGradient
SM_DEAD_SHARE = 0.5  # DeadRelu, threshold_layer 50 % [M]
SM_SATURATED_SHARE = 0.5  # SaturatedActivation, threshold_layer 50 % [M]
SM_LOSS_EVERY, SM_LOSS_PERCENT = 10, 0.1  # LossNotDecreasing: num_steps, diff_percent [M]
SM_UPDATE_LARGE, SM_UPDATE_SMALL = 10.0, 1e-8  # WeightUpdateRatio [M]
SM_INIT_RATIO = 10.0  # PoorWeightInitialization, largest over smallest deviation of a layer's weights [M]

# torchmortem 0.1.1, defaults in its detectors
TM_DEAD, TM_SATURATED, TM_SUSTAINED = 0.5, 0.5, 0.5  # dead_units.py, saturation.py: second half of the run
TM_RATIO, TM_NORM, TM_STALL, TM_STALL_SHARE = 100.0, 1000.0, 1e-8, 0.3  # gradient_flow.py
TM_UPDATE_LOW, TM_UPDATE_HIGH = 1e-5, 1e-1  # update_ratio.py
TM_PLATEAU_WINDOW, TM_PLATEAU = 20, 1e-5  # loss_dynamics.py
TM_RISING, TM_RISE = 0.8, 1.5  # loss_dynamics.py: fraction of rising steps in the last window, end over start
TM_WEIGHT_GROWTH = 10.0  # weight_norm.py


def _finding(kind: str, steps: np.ndarray, where: np.ndarray, layer: str | None = None) -> Finding:
    """Return an alarm for the steps on which the condition holds."""
    found = steps[where]
    return Finding(kind, "warning", layer, int(found[0]), int(found[-1]), {})


def _weights(observations: Observations, signal: str) -> Table:
    """Return a signal of the weights, without biases and gains."""
    table = observations.rms.get(signal, Table(np.empty(0, np.int64), (), np.empty((0, 0))))
    dims = observations.about.num_dims
    return table.of(tuple(layer for layer in table.layers if dims.get(layer, 2) > 1))


def _losses(observations: Observations) -> Series:
    return observations.scalars.get("train/loss", Series(np.empty(0, np.int64), np.empty(0)))


def _accuracy(observations: Observations) -> Series | None:
    return observations.scalars.get("val/accuracy")


def _nonfinite(observations: Observations) -> Iterator[Finding]:
    """Find NaN or Inf in the loss or in a gradient, as all three tools do."""
    losses = _losses(observations)
    bad = ~np.isfinite(losses.values)
    if bad.any():
        yield _finding("nonfinite", losses.steps, bad)
    table = observations.nonfinite.get("gradient")
    if table is not None and (rows := (np.nan_to_num(table.values) > 0).any(1)).any():
        yield _finding("nonfinite", table.steps, rows)


def _units(observations: Observations, unit: str, kind: str, share: float, late: bool = False) -> Iterator[Finding]:
    """Find layers with more than `share` of their units dead or saturated; `late`: in half of the second half."""
    table = observations.units.get(unit)
    if table is None or not len(table.steps):
        return
    start = len(table.steps) // 2 if late else 0
    for column, layer in enumerate(table.layers):
        above = table.values[start:, column] > share
        if above.mean() >= TM_SUSTAINED if late else above.any():
            yield _finding(kind, table.steps[start:], above, layer)


def autotrainer(observations: Observations) -> list[Finding]:
    """Check the structure if accuracy is not good after three tenths of the epochs; otherwise only oscillation."""
    found = list(_nonfinite(observations))
    losses, accuracy = _losses(observations), _accuracy(observations)
    huge = losses.values >= AT_LOSS
    if huge.any():
        found.append(_finding("exploding", losses.steps, huge))
    if accuracy is None or not len(accuracy.values) or not _is_judged(observations, accuracy):
        return found
    gains = np.diff(accuracy.values, prepend=accuracy.values[0])
    is_slow = gains.max() < AT_SLOW
    if accuracy.values.max() < AT_GOOD or is_slow:
        structure = list(_autotrainer_structure(observations))
        if not structure and is_slow:
            structure = [_finding("no_progress", accuracy.steps, gains < AT_SLOW)]
        return found + structure[:1]
    if _swings(accuracy.values) >= AT_SWING_SHARE * len(accuracy.values):
        found.append(_finding("oscillation", accuracy.steps, np.ones(len(accuracy.steps), bool)))
    return found


def _is_judged(observations: Observations, accuracy: Series) -> bool:
    num_steps = observations.about.num_steps
    return num_steps is None or accuracy.steps[-1] + 1 >= AT_JUDGED * num_steps


def _autotrainer_structure(observations: Observations) -> Iterator[Finding]:
    """Find dying ReLU, exploding and vanishing gradients, in AutoTrainer's order."""
    yield from _units(observations, "dead", "dead_units", AT_DEAD)
    table = _weights(observations, "gradient")
    if table.values.size == 0:
        return
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = table.values[:, 0] / table.values[:, -1]
    if (ratio > AT_EXPLODING).any():
        yield _finding("exploding", table.steps, ratio > AT_EXPLODING, table.layers[0])
    vanishing = (ratio < AT_RATIO) & (table.values[:, 0] < AT_NORM)
    if vanishing.any():
        yield _finding("vanishing", table.steps, vanishing, table.layers[0])


def _swings(values: np.ndarray) -> int:
    """Return the number of peaks that are well above their trough."""
    inner = values[1:-1]
    peaks = inner[(inner >= values[:-2]) & (inner >= values[2:])]
    troughs = inner[(inner <= values[:-2]) & (inner <= values[2:])]
    count = min(len(peaks), len(troughs))
    return int((peaks[:count] - troughs[:count] >= AT_SWING).sum())


def sagemaker(observations: Observations) -> list[Finding]:
    """Apply SageMaker Debugger's deep learning rules with their default parameters to every recorded step."""
    found = [*_nonfinite(observations)]
    gradients = _weights(observations, "gradient")
    for column, layer in enumerate(gradients.layers):
        small = gradients.values[:, column] < SM_VANISHING
        if small.any():
            found.append(_finding("vanishing", gradients.steps, small, layer))
    found += _units(observations, "dead", "dead_units", SM_DEAD_SHARE)
    found += _units(observations, "saturated", "saturation", SM_SATURATED_SHARE)
    found += _initial_weights(observations)
    found += _update_ratios(observations, SM_UPDATE_SMALL, SM_UPDATE_LARGE, late=False)
    losses = _losses(observations)
    later, earlier = losses.values[SM_LOSS_EVERY::SM_LOSS_EVERY], losses.values[:-SM_LOSS_EVERY:SM_LOSS_EVERY]
    stands = later[: len(earlier)] > earlier[: len(later)] * (1 - SM_LOSS_PERCENT / 100)
    if stands.any():
        found.append(_finding("no_progress", losses.steps[SM_LOSS_EVERY::SM_LOSS_EVERY][: len(stands)], stands))
    return found


def _initial_weights(observations: Observations) -> Iterator[Finding]:
    table = _weights(observations, "weight")
    if table.values.size and len(table.layers) > 1:
        first = table.values[0]
        if first.min() == 0 or first.max() / first.min() > SM_INIT_RATIO:
            yield _finding("bad_init", table.steps, np.arange(len(table.steps)) == 0, table.layers[int(first.argmin())])


def _update_ratios(observations: Observations, low: float, high: float, late: bool) -> Iterator[Finding]:
    """Find ‖ΔW‖/‖W‖ beyond its limits: on any step, or as the median over the second half."""
    weights, updates = _weights(observations, "weight"), _weights(observations, "update")
    shared = np.intersect1d(weights.steps, updates.steps)
    if not len(shared):
        return
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = updates.values[np.isin(updates.steps, shared)] / weights.values[np.isin(weights.steps, shared)]
    start = len(shared) // 2 if late else 0
    for column, layer in enumerate(updates.layers):
        values = ratios[start:, column]
        positive = values[np.isfinite(values) & (values > 0)]
        typical = np.full(len(values), np.median(positive)) if late and len(positive) else values
        for kind, beyond in (("lr_too_low", typical < low), ("lr_too_high", typical > high)):
            if beyond.any():
                yield _finding(kind, shared[start:], beyond, layer)


def torchmortem(observations: Observations) -> list[Finding]:
    """Apply torchmortem's detectors with their defaults, without rank collapse, gradient noise and curvature."""
    found = [*_nonfinite(observations), *_gradient_flow(observations)]
    found += _units(observations, "dead", "dead_units", TM_DEAD, late=True)
    found += _units(observations, "saturated", "saturation", TM_SATURATED, late=True)
    found += _update_ratios(observations, TM_UPDATE_LOW, TM_UPDATE_HIGH, late=True)
    found += _loss_dynamics(observations)
    weights = _weights(observations, "weight")
    if weights.values.size:
        with np.errstate(divide="ignore", invalid="ignore"):
            growth = weights.values[-1] / weights.values[0]
        for column in np.flatnonzero(np.isfinite(growth) & (growth > TM_WEIGHT_GROWTH)):
            found.append(
                _finding("exploding", weights.steps, weights.steps == weights.steps[-1], weights.layers[column])
            )
    return found


def _gradient_flow(observations: Observations) -> Iterator[Finding]:
    table = _weights(observations, "gradient")
    if table.values.size == 0:
        return
    late = np.arange(len(table.steps)) >= len(table.steps) // 2
    values = table.values[late]
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.nansum(values, axis=0) / (~np.isnan(values)).sum(axis=0)
        ratio = mean[-1] / mean[0]
    if ratio >= TM_RATIO:
        yield _finding("vanishing", table.steps, late, table.layers[0])
    large = (table.values > TM_NORM).any(1)
    if large.any():
        yield _finding("exploding", table.steps, large, table.layers[int((table.values > TM_NORM).any(0).argmax())])
    for column, layer in enumerate(table.layers):
        stalled = table.values[:, column] < TM_STALL
        if stalled.mean() > TM_STALL_SHARE:
            yield _finding("vanishing", table.steps, stalled, layer)


def _loss_dynamics(observations: Observations) -> Iterator[Finding]:
    losses = _losses(observations)
    values = losses.values
    tail = values[-TM_PLATEAU_WINDOW:]
    if len(values) < 2 * TM_PLATEAU_WINDOW or not np.isfinite(tail).all():
        return
    last = np.arange(len(values)) >= len(values) - TM_PLATEAU_WINDOW
    if (np.diff(tail) > 0).mean() >= TM_RISING and tail[-1] >= TM_RISE * tail[0]:
        yield _finding("lr_too_high", losses.steps, last)
    if np.ptp(tail) < TM_PLATEAU * max(tail.mean(), 1e-30):
        yield _finding("no_progress", losses.steps, last)


PRESETS: dict[str, Callable[[Observations], list[Finding]]] = {
    "AutoTrainer": autotrainer,
    "SageMaker Debugger": sagemaker,
    "torchmortem": torchmortem,
}
