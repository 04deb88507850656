"""Which pictures of a run MLflow gets, and how they are named so that its charts page shows them with a slider."""

from __future__ import annotations

import io
import re
import tempfile
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from stabletrain.record import names
from stabletrain.record.reader import Entry, LayerHistogram, Record, Scalar, Series
from stabletrain.signal.histogram import Histogram

if TYPE_CHECKING:
    from mlflow import MlflowClient

FOLDER = "images"
NUM_FIRST_RIDGES = (
    10  # all of the first ones, then on steps that grow by a quarter: 30 pictures for 100 times the steps
)
RIDGES_GROWTH = 1.25
FIRST_HEATMAP_STEP = 50  # after that of the first look: a page opens on the first step and says if that is empty
HEATMAP_GROWTH = 3.0
MAX_HEATMAPS = 8
MAX_COLUMNS = 2048  # of a heatmap; it has fewer pixels
_FILE_NAME = re.compile(r"^(?P<key>.+)\+step\+(?P<step>\d+)\+timestamp\+\d+\+.+?(?P<small>\+compressed\.webp|\.png)$")
_DRAWN = (f"{names.GRADIENT_RMS}/", f"{names.GRADIENT_NONFINITE}/")


@dataclass(frozen=True)
class Picture:
    """A picture to be drawn."""

    key: str
    step: int
    time_ms: int
    draw: Callable[[], bytes]


@dataclass
class PicturePlan:
    """Decides what is drawn from the record alone, so that reading it again decides the same.

    Attributes:
        there: Key and step of the pictures that the server has already.
        record: Gradient by layer and step so far, thinned to what a heatmap can show.
    """

    there: set[tuple[str, int]]
    record: Record = field(default_factory=Record)
    _pending: dict[tuple[str, int], Picture] = field(default_factory=dict)
    _last: tuple[int, int, dict[str, Histogram]] | None = None  # step, time, histograms
    _limits: tuple[float, float] | None = None
    _num_ridges: int = 0
    _last_ridges: int = -1
    _num_heatmaps: int = 0
    _last_heatmap: int = -1
    _stride: int = 1
    _num_columns: int = 0
    _last_column: int = -1

    def take(self, entries: Iterable[Entry]) -> None:
        """Take in the entries of one event."""
        histograms: dict[str, Histogram] = {}
        step, time_ms = -1, 0
        for entry in entries:
            if isinstance(entry, LayerHistogram):
                histograms[entry.layer] = entry.histogram
                step, time_ms = entry.step, round(entry.time_s * 1000)
            elif isinstance(entry, Scalar) and entry.name.startswith(_DRAWN):
                self._take_column(entry)
        if histograms and step > (self._last[0] if self._last else -1):
            self._last = (step, time_ms, histograms)
            self._plan(step)

    def plan_last(self) -> None:
        """Have the last state drawn too; called when the run has ended."""
        if self._last is not None:
            self._add(names.RIDGES)
            self._add(names.HEATMAP)

    def pending(self) -> list[Picture]:
        """Return what is still to be drawn."""
        return list(self._pending.values())

    def done(self, picture: Picture) -> None:
        """Note that a picture is on the server, or cannot be drawn."""
        self.there.add((picture.key, picture.step))
        self._pending.pop((picture.key, picture.step), None)

    def _plan(self, step: int) -> None:
        if self._num_ridges < NUM_FIRST_RIDGES or step >= RIDGES_GROWTH * self._last_ridges:
            self._num_ridges, self._last_ridges = self._num_ridges + 1, step
            self._add(names.RIDGES)
        due = max(FIRST_HEATMAP_STEP, HEATMAP_GROWTH * self._last_heatmap) if self._num_heatmaps else 0
        if self._num_heatmaps < MAX_HEATMAPS and step >= due:
            self._num_heatmaps, self._last_heatmap = self._num_heatmaps + 1, step
            self._add(names.HEATMAP)

    def _add(self, key: str) -> None:
        assert self._last is not None
        step, time_ms, histograms = self._last
        if (key, step) not in self.there and (key, step) not in self._pending:
            if self._limits is None:
                self._limits = _limits_of(histograms)  # of the first picture: the slider's frames share one axis
            draw = (
                _ridges_drawing(histograms, step, self._limits)
                if key == names.RIDGES
                else _heatmap_drawing(self._copy(), step)
            )
            self._pending[key, step] = Picture(key, step, time_ms, draw)

    def _take_column(self, entry: Scalar) -> None:
        series = self.record.scalars.setdefault(entry.name, Series())
        if entry.step >= self._last_column + self._stride:
            self._last_column = entry.step
            self._num_columns += 1
            if self._num_columns > MAX_COLUMNS:
                self._thin()
        if entry.step == self._last_column and (not series.steps or entry.step > series.steps[-1]):
            series.steps.append(entry.step)
            series.values.append(entry.value)
        elif series.steps and entry.name.startswith(names.GRADIENT_NONFINITE):  # thinned out, but never hidden
            series.values[-1] = max(series.values[-1], entry.value)

    def _thin(self) -> None:
        self._num_columns //= 2
        self._stride = max(2 * self._stride, self._last_column // self._num_columns)
        for name, series in self.record.scalars.items():
            values = series.values
            if name.startswith(names.GRADIENT_NONFINITE):
                values = [max(values[i : i + 2]) for i in range(0, len(values), 2) for _ in range(2)]
            series.steps, series.values = series.steps[::2], values[: len(series.steps) * 2 : 2]

    def _copy(self) -> Record:
        scalars = {k: Series(list(s.steps), list(s.values)) for k, s in self.record.scalars.items()}
        return Record(scalars=scalars)


def _limits_of(histograms: dict[str, Histogram]) -> tuple[float, float]:
    from stabletrain.report.pictures import ridge_limits

    return ridge_limits(histograms)


def _ridges_drawing(histograms: dict[str, Histogram], step: int, limits: tuple[float, float]) -> Callable[[], bytes]:
    def draw() -> bytes:
        from stabletrain.report.pictures import draw_ridges

        return draw_ridges(histograms, step=step, limits=limits)

    return draw


def _heatmap_drawing(record: Record, step: int) -> Callable[[], bytes]:
    def draw() -> bytes:
        from stabletrain.report.pictures import draw_heatmap

        return draw_heatmap(record, until_step=step)

    return draw


def pictures_there(client: MlflowClient, run_id: str) -> set[tuple[str, int]]:
    """Return key and step of the pictures that the run has on the server with the small one beside it."""
    found: dict[str, set[tuple[str, int]]] = {".png": set(), "+compressed.webp": set()}
    for file in client.list_artifacts(run_id, FOLDER):
        if match := _FILE_NAME.match(Path(file.path).name):
            found[match["small"]].add((match["key"].replace("~", "/").replace("#", "/"), int(match["step"])))
    return found[".png"] & found["+compressed.webp"]


def upload_picture(client: MlflowClient, run_id: str, picture: Picture, png: bytes) -> None:
    """Log a PNG as `MlflowClient.log_image` does, under names that follow from key and step.

    `log_image` names its two files at random: after a crash between them the same picture would be there twice.
    The charts page shows the small one, which `log_image` reduces to 256 pixels: too few to read the layers' names.
    """
    from PIL import Image

    unique = uuid.uuid5(uuid.NAMESPACE_URL, f"{run_id}/{picture.key}/{picture.step}")
    stem = f"{picture.key.replace('/', '~')}+step+{picture.step}+timestamp+{picture.time_ms}+{unique}"
    with tempfile.TemporaryDirectory(prefix="stabletrain-") as folder:
        Path(folder, f"{stem}.png").write_bytes(png)
        with Image.open(io.BytesIO(png)) as image:
            image.convert("RGB").save(Path(folder, f"{stem}+compressed.webp"), quality=85)
        client.log_artifacts(run_id, folder, FOLDER)
    client.set_tag(run_id, "mlflow.loggedImages", "True")
