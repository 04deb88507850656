"""The state of every layer: the size of its gradient, its trend, and what the doctor found there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from stabletrain.diagnosis.rules.depth import RATIO_DECADES
from stabletrain.signal.layer_statistics import Measures
from stabletrain.signal.snapshot import Snapshot
from stabletrain.vocabulary.finding import CRITICAL, INFO, SEVERITIES, WARNING, Finding
from stabletrain.vocabulary.kinds import EXPLODING, VANISHING

OK, NO_GRADIENT, ZERO, NONFINITE = "ok", "no gradient", "zero", "non-finite"
MIN_DECADES = 4  # of the axis, so that equal layers look equal
SMOOTHING = 0.2  # weight of the newest measurement in the average that a trend is relative to
TREND_DECADES = 0.1  # from that average: a factor of 1.26


@dataclass(frozen=True)
class State:
    """What is wrong with a layer.

    Attributes:
        word: `ok`, or what is wrong.
        severity: One of `SEVERITIES`; `info` for ok.
    """

    word: str = OK
    severity: str = INFO


@dataclass(frozen=True)
class LayerStates:
    """All layers at one moment, in forward order.

    Attributes:
        layers: Names, (L,).
        rms: (L,) float64, of the gradient; NaN without a finite element or without a gradient.
        trends: (L,) int, -1 falling, 0 steady, 1 rising.
        updates: ‖ΔW‖/‖W‖ by layer, where it was measured.
        states: State by position, for layers that are not ok.
        limits: log10 of both ends of the axis, whole decades.
    """

    layers: Sequence[str] = ()
    rms: np.ndarray = field(default_factory=lambda: np.empty(0))
    trends: np.ndarray = field(default_factory=lambda: np.empty(0, int))
    updates: Mapping[str, float] = field(default_factory=dict)
    states: Mapping[int, State] = field(default_factory=dict)
    limits: tuple[int, int] = (-MIN_DECADES, 0)

    def state(self, place: int) -> State:
        """Return the state of one layer."""
        return self.states.get(place, State())

    def share(self, place: int) -> float:
        """Return where the rms of a layer is on the logarithmic axis, 0 to 1; 0 without a gradient."""
        value, (low, high) = self.rms[place], self.limits
        if not value > 0:
            return 0.0
        return float(np.clip((np.log10(value) - low) / (high - low), 0.0, 1.0))

    def choose(self, num_rows: int) -> list[int]:
        """Return the places to show, in forward order: all that fit, or the first, the last, the worst, and a sample.

        Half of the rows go to the worst: those with an alarm, then those whose gradient is furthest from the median
        over all layers, in steps of half a decade so that rows do not change places all the time. The other half are
        spread evenly over the depth.
        """
        count = len(self.layers)
        if count <= num_rows:
            return list(range(count))
        sizes = decades(self.rms)
        known = np.isfinite(sizes)
        center = float(np.median(sizes[known])) if known.any() else 0.0
        distance = np.where(known, np.round(2 * np.abs(np.where(known, sizes, center) - center)), 0.0)
        alarm = np.array([SEVERITIES.index(self.state(i).severity) for i in range(count)])
        worst = np.lexsort((np.arange(count), -distance, -alarm))
        chosen = {0, count - 1, *worst[: num_rows // 2].tolist()}
        rest = [i for i in range(count) if i not in chosen]
        spread = np.linspace(0, len(rest) - 1, num_rows - len(chosen)).round().astype(int).tolist()
        return sorted([*chosen, *(rest[i] for i in spread)])


class LayerHistory:
    """Keeps what the table shows besides the last snapshot: trends, update ratios, and an axis that only grows."""

    def __init__(self) -> None:
        self._average: dict[str, float] = {}
        self._trends: dict[str, int] = {}
        self._limits: tuple[int, int] | None = None
        self._updates: Mapping[str, float] = {}
        self._last: Snapshot | None = None

    def add_updates(self, snapshot: Snapshot) -> None:
        """Keep the update ratios of a snapshot in which they were measured."""
        self._updates = snapshot.update_ratios

    def states(self, snapshot: Snapshot, findings: Sequence[Finding], all_layers: Sequence[str] = ()) -> LayerStates:
        """Return the layers as they are now.

        Args:
            snapshot: The last one.
            findings: The doctor's findings.
            all_layers: Also those without a gradient, in forward order.
        """
        measures = Measures.of(snapshot.layers)
        measured, arrays = measures.layers, measures.arrays
        if snapshot is not self._last:
            self._follow(measured, arrays.rms)
            self._last = snapshot
        layers = tuple(all_layers) if set(measured) <= set(all_layers) else measured
        has_gradient = np.isin(layers, measured)  # both are in forward order
        rms, num_nonfinite = np.full(len(layers), np.nan), np.zeros(len(layers), int)
        rms[has_gradient], num_nonfinite[has_gradient] = arrays.rms, arrays.num_nonfinite
        return LayerStates(
            layers=layers,
            rms=rms,
            trends=np.array([self._trends.get(layer, 0) for layer in layers], int),
            updates=self._updates,
            states=find_states(layers, rms, num_nonfinite, has_gradient, findings),
            limits=self._limits or (-MIN_DECADES, 0),
        )

    def _follow(self, layers: Sequence[str], rms: np.ndarray) -> None:
        for layer, size in zip(layers, decades(rms).tolist(), strict=True):
            if not np.isfinite(size):
                continue
            average = self._average.get(layer, size)
            change = size - average
            self._trends[layer] = int(np.sign(change)) if abs(change) > TREND_DECADES else 0
            self._average[layer] = average + SMOOTHING * change
        self._limits = widen(self._limits, rms)


def decades(rms: np.ndarray) -> np.ndarray:
    """Return log10, NaN for zero and for values that are not finite."""
    known = np.isfinite(rms) & (rms > 0)
    return np.where(known, np.log10(np.where(known, rms, 1.0)), np.nan)


def widen(limits: tuple[int, int] | None, rms: np.ndarray) -> tuple[int, int] | None:
    """Return an axis of whole decades that also holds these values, at least `MIN_DECADES` long."""
    sizes = decades(rms)
    sizes = sizes[np.isfinite(sizes)]
    if not len(sizes):
        return limits
    low, high = int(np.floor(sizes.min())), int(np.ceil(sizes.max()))
    if limits is not None:
        low, high = min(low, limits[0]), max(high, limits[1])
    return min(low, high - MIN_DECADES), high


def find_states(
    layers: Sequence[str],
    rms: np.ndarray,
    num_nonfinite: np.ndarray,
    has_gradient: np.ndarray,
    findings: Sequence[Finding],
) -> dict[int, State]:
    """Return the state of each layer that is not ok, by position.

    A finding marks the layer that it names, or all those that its evidence lists. Vanishing and exploding name only
    the first layer; as in the rule, they mark all layers whose gradient is a thousand times smaller, or larger, than
    that of the last quarter.
    """
    states: dict[int, State] = {}
    for i in np.flatnonzero(~has_gradient).tolist():
        states[i] = State(NO_GRADIENT)
    for i in np.flatnonzero(has_gradient & (rms == 0)).tolist():
        states[i] = State(ZERO, WARNING)
    for finding in sorted(findings, key=lambda f: SEVERITIES.index(f.severity)):
        for i in _places(finding, layers, rms):
            states[i] = State(finding.kind.replace("_", " "), finding.severity)
    for i in np.flatnonzero(num_nonfinite > 0).tolist():
        states[i] = State(NONFINITE, CRITICAL)
    return states


def _places(finding: Finding, layers: Sequence[str], rms: np.ndarray) -> list[int]:
    listed = finding.evidence.get("layers")
    named = {finding.layer} if finding.layer else set()
    named |= set(listed) if isinstance(listed, Mapping | list | tuple) else set()
    paths = {_path(name) for name in named}
    # an output is named after its module, a gradient after its parameter
    found = {i for i, layer in enumerate(layers) if layer in named or _path(layer).rpartition(".")[0] in paths - {""}}
    if finding.kind in (VANISHING.name, EXPLODING.name) and finding.layer is not None:
        sizes = decades(rms)
        last = sizes[-max(1, len(sizes) // 4) :]
        if np.isfinite(last).any():
            gap = sizes - float(np.nanmedian(last))
            beyond = gap < -RATIO_DECADES if finding.kind == VANISHING.name else gap > RATIO_DECADES
            found |= set(np.flatnonzero(beyond).tolist())
    return sorted(found)


def _path(layer: str) -> str:
    return layer.partition(".")[2]
