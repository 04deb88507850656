"""The pictures of a run in MLflow: which steps are drawn, as a function of the record alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from stabletrain.record.reader import Entry, LayerHistogram, Record, Scalar, Vector
from stabletrain.signal.histogram import Histogram
from stabletrain.tracking.contents.downsample import MAX_COLUMNS, DownsampledRecord
from stabletrain.vocabulary import metric_names as names
from stabletrain.vocabulary.finding import Finding
from stabletrain.vocabulary.signals import GRADIENT

AT_END = "_at_end"  # suffix: the last picture of each kind again, at step 0, so that runs of any length line up
Identity = tuple[str, int, int]  # key, step, wall time of the event in ms


@dataclass(frozen=True)
class Picture:
    """A picture to draw."""

    key: str
    step: int
    time_ms: int
    draw: Callable[[], bytes]

    @property
    def identity(self) -> Identity:
        """Unique within the run."""
        return self.key, self.step, self.time_ms


@dataclass
class Schedule:
    """Chooses steps whose number grows with the logarithm of the run's length.

    Attributes:
        num_first: Number of measurements at the beginning that are all drawn.
        growth: Factor by which the step grows at least from one picture to the next, after those.
        start: Smallest step after those.
        max_num: Largest number of pictures; no limit if None. The last state of the run is drawn in addition.
    """

    num_first: int
    growth: float
    start: int = 0
    max_num: int | None = None
    _num: int = 0
    _last: int = -1

    def is_due(self, step: int) -> bool:
        """Return whether to draw this step. Call it once for each step, in order."""
        is_due = self._num < self.num_first or step >= max(self.start, self.growth * self._last)
        is_due = is_due and (self.max_num is None or self._num < self.max_num)
        if is_due:
            self._num, self._last = self._num + 1, step
        return is_due


def _ridges_schedule() -> Schedule:
    return Schedule(num_first=10, growth=1.25)  # ten more for every tenfold of the steps


def _timeline_schedule() -> Schedule:
    return Schedule(num_first=1, growth=3.0, start=50, max_num=8)  # each shows everything before it


@dataclass
class Timeline:
    """A kind of picture with the step on its horizontal axis, from the first step on.

    Attributes:
        key: Name of the image in MLflow.
        draw: Draws the picture from a record and the findings.
        kept: The data that it shows.
        extra: Further data, which may be recorded at other steps.
        begins: Whether an entry is worth a picture; nothing is drawn before the first such entry.
        schedule: The steps at which it is drawn.
        last: Step and time in ms of the latest entry.
    """

    key: str
    draw: Callable[[Record, Sequence[Finding]], bytes]
    kept: DownsampledRecord
    extra: DownsampledRecord | None = None
    begins: Callable[[Scalar | Vector], bool] = lambda entry: True
    schedule: Schedule = field(default_factory=_timeline_schedule)
    last: tuple[int, int] | None = None
    _has_begun: bool = False

    def take(self, entries: Sequence[Entry]) -> bool:
        """Add the entries of one event; return whether to draw a picture now."""
        matching = self.kept.take(entries)
        if self.extra is not None:
            self.extra.take(entries)
        self._has_begun = self._has_begun or any(map(self.begins, matching))
        if not matching or not self._has_begun or matching[-1].step <= (self.last[0] if self.last else -1):
            return False
        self.last = matching[-1].step, round(matching[-1].time_s * 1000)
        return self.schedule.is_due(matching[-1].step)

    def picture(self, findings: Sequence[Finding] = ()) -> Picture:
        """Return the picture of the present state."""
        assert self.last is not None
        kept = self.kept.frozen()
        if self.extra is not None:
            kept.scalars |= self.extra.frozen().scalars
        return Picture(self.key, *self.last, lambda: self.draw(kept.record, findings))


@dataclass
class PicturePlan:
    """Plans the pictures of a run from its record alone: reading the record again gives the same plan.

    Attributes:
        there: Pictures that the server has already.
        course: Whether to draw the pictures over the whole run several times on the way, for those who watch it. If
            not, they are drawn at its end only: the last one shows everything that an earlier one shows.
        timelines: The kinds of pictures over the whole run.
    """

    there: set[Identity]
    course: bool = True
    timelines: list[Timeline] = field(default_factory=lambda: new_timelines())
    _pending: dict[Identity, Picture] = field(default_factory=dict)
    _last: tuple[int, int, dict[str, Histogram]] | None = None  # step, time, histograms
    _limits: tuple[float, float] | None = None
    _ridges: Schedule = field(default_factory=_ridges_schedule)

    def take(self, entries: Sequence[Entry]) -> None:
        """Add the entries of one event."""
        found = [e for e in entries if isinstance(e, LayerHistogram) and e.signal == GRADIENT]
        if found and found[-1].step > (self._last[0] if self._last else -1):
            histograms = {entry.layer: entry.histogram for entry in found}
            self._last = (found[-1].step, round(found[-1].time_s * 1000), histograms)
            if self._ridges.is_due(found[-1].step):
                self._add(self._ridges_picture())
        for timeline in self.timelines:
            if timeline.take(entries) and self.course:
                self._add(timeline.picture())

    def plan_last(self, findings: Sequence[Finding] = ()) -> None:
        """Add pictures of the last state, each under two keys; called when the run has ended."""
        pictures = [timeline.picture(findings) for timeline in self.timelines if timeline.last is not None]
        if self._last is not None:
            pictures.insert(0, self._ridges_picture())
        for picture in pictures:
            self._pending.pop(picture.identity, None)  # planned before the findings were known
            self._add(picture)
            self._add(replace(picture, key=picture.key + AT_END, step=0))

    def pending(self) -> list[Picture]:
        """Return the pictures that are still to be drawn."""
        return list(self._pending.values())

    def done(self, picture: Picture) -> None:
        """Mark a picture as uploaded, or as impossible to draw."""
        self.there.add(picture.identity)
        self._pending.pop(picture.identity, None)

    def _add(self, picture: Picture) -> None:
        if picture.identity not in self.there:
            self._pending.setdefault(picture.identity, picture)

    def _ridges_picture(self) -> Picture:
        assert self._last is not None
        step, time_ms, histograms = self._last
        if self._limits is None:
            self._limits = _limits_of(
                histograms
            )  # of the first picture, so that all frames of the slider share one axis
        return Picture(names.RIDGES, step, time_ms, _ridges_drawing(histograms, step, self._limits))


def new_timelines() -> list[Timeline]:
    """Return the kinds of pictures over the whole run."""
    return [
        Timeline(names.HEATMAP, _draw_heatmap, _kept(names.GRADIENT_RMS, names.GRADIENT_NONFINITE), _clipping()),
        Timeline(names.UPDATE_RATIOS, _draw_update_ratios, _kept(names.UPDATE_RATIO)),
        Timeline(names.TIME_SURFACE, _draw_time_surface, _kept(names.TIME_NORM, max_columns=256)),
        Timeline(names.CLIPPING, _draw_clipping, _clipping(), begins=_is_clipped),
    ]


def _clipping() -> DownsampledRecord:
    return DownsampledRecord((names.NORM_TOTAL, names.NORM_AFTER, names.CLIP_FRACTION))


def _is_clipped(entry: Scalar | Vector) -> bool:
    return isinstance(entry, Scalar) and entry.name == names.CLIP_FRACTION and entry.value > 0


def _kept(*statistics: str, max_columns: int = MAX_COLUMNS) -> DownsampledRecord:
    return DownsampledRecord(tuple(f"{statistic}/" for statistic in statistics), max_columns)


def _draw_heatmap(record: Record, findings: Sequence[Finding]) -> bytes:
    from stabletrain.report import pictures

    return pictures.draw_heatmap(record, findings=findings)


def _draw_update_ratios(record: Record, findings: Sequence[Finding]) -> bytes:
    from stabletrain.report import pictures

    return pictures.draw_update_ratios(record)


def _draw_time_surface(record: Record, findings: Sequence[Finding]) -> bytes:
    from stabletrain.report import pictures

    return pictures.draw_time_surface(record)


def _draw_clipping(record: Record, findings: Sequence[Finding]) -> bytes:
    from stabletrain.report import pictures

    return pictures.draw_clipping(record)


def _limits_of(histograms: dict[str, Histogram]) -> tuple[float, float]:
    from stabletrain.report.pictures import ridge_limits

    return ridge_limits(histograms)


def _ridges_drawing(histograms: dict[str, Histogram], step: int, limits: tuple[float, float]) -> Callable[[], bytes]:
    def draw() -> bytes:
        from stabletrain.report.pictures import draw_ridges

        return draw_ridges(histograms, step=step, limits=limits)

    return draw
