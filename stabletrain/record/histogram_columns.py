"""The histograms of one signal at a bounded number of steps."""

from __future__ import annotations

from collections.abc import Mapping

from stabletrain.record.raw_events import HistogramRun
from stabletrain.record.recorded_histogram import RecordedHistogram
from stabletrain.signal.histogram import Histogram

MAX_BYTES = (
    64 * 2**20
)  # of the signal's histograms in the file: 250 steps of 500 layers; a page shows at most 120 steps
MIN_STEPS = 16  # with however many layers: a page shows at least 9


class HistogramColumns:
    """Keeps the histograms of every step until they exceed `max_bytes`, beyond that of every 2nd, 4th, … step.

    The first and the last step are always kept, and with the first Inf or NaN the step before and that step. What is
    not kept is not decoded.

    Args:
        max_bytes: Largest size of the kept histograms, in bytes of the event file.
        min_steps: Number of steps that are kept however large they are.
    """

    def __init__(self, max_bytes: int = MAX_BYTES, min_steps: int = MIN_STEPS) -> None:
        self.max_bytes = max_bytes
        self.min_steps = min_steps
        self.stride = 1
        self._num_seen = 0
        self._num_bytes = 0
        self._kept: dict[int, dict[str, Histogram]] = {}
        self._sizes: dict[int, int] = {}
        self._pinned: set[int] = set()
        self._is_pinned = False
        self._last: tuple[int, list[HistogramRun]] | None = None  # not decoded: most are never looked at

    def add(self, step: int, run: HistogramRun, is_bad: bool = False) -> None:
        """Add histograms of a step.

        Args:
            step: The step.
            run: Its histograms, or a part of them.
            is_bad: Whether a gradient has contained Inf or NaN, at this step or before.
        """
        if self._last is not None and self._last[0] == step:
            self._last[1].append(run)
        elif step in self._kept:  # recorded again by a resumed run
            self._keep(step, run)
            return
        else:
            if is_bad and not self._is_pinned:
                self._pin(step)
            self._last = step, [run]
            self._num_seen += 1
        if (self._num_seen - 1) % self.stride == 0 or step in self._pinned:
            self._keep(step, run)
            if self._num_bytes > self.max_bytes and len(self._kept) > self.min_steps:
                self._thin()

    def _pin(self, step: int) -> None:
        """Keep this step and the one before, whatever is thinned."""
        self._is_pinned = True
        self._pinned.add(step)
        if self._last is not None:
            self._pinned.add(self._last[0])
            self._keep_last()

    def _keep_last(self) -> None:
        assert self._last is not None
        if self._last[0] not in self._kept:
            for run in self._last[1]:
                self._keep(self._last[0], run)

    def _keep(self, step: int, run: HistogramRun) -> None:
        found = {layer: RecordedHistogram(message) for layer, message in run.messages()}
        self._kept.setdefault(step, {}).update(found)
        self._sizes[step] = self._sizes.get(step, 0) + run.end - run.begin
        self._num_bytes += run.end - run.begin

    def _thin(self) -> None:
        self.stride *= 2
        thinned = [step for step in sorted(self._kept) if step not in self._pinned or step == min(self._kept)]
        for step in thinned[1::2]:
            self._num_bytes -= self._sizes.pop(step)
            del self._kept[step]

    def by_layer(self) -> Mapping[str, Mapping[int, Histogram]]:
        """Return the kept histograms by layer and increasing step."""
        if self._last is not None:
            self._keep_last()
        found: dict[str, dict[int, Histogram]] = {}
        for step in sorted(self._kept):
            for layer, histogram in self._kept[step].items():
                found.setdefault(layer, {})[step] = histogram
        return found
