"""A dashboard in MLflow: the saved view `Gradient health` of an experiment.

MLflow stores a saved view in a tag of the experiment. The format is not documented (checked in 3.17.2 and 3.18.0), so
a failure to write it is not an error.
"""

from __future__ import annotations

import base64
import json
import time
import zlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from stabletrain.tracking import tags
from stabletrain.tracking.contents.picture_plan import AT_END
from stabletrain.vocabulary import metric_names as names
from stabletrain.vocabulary.signals import CLIP

if TYPE_CHECKING:
    from mlflow import MlflowClient

VIEW_ID = "stabletrain-gradient-health"  # one per experiment: later runs replace it
VIEW_NAME = "Gradient health"
_TAG = f"{tags.SAVED_VIEW}.{VIEW_ID}"
_PREFIX = "deflate;"
BY_LAYER = (names.GRADIENT_RMS, names.UPDATE_RATIO)
_FOLDED = (*BY_LAYER, CLIP, *names.STAGES)  # MLflow adds a chart for every key that heads no chart of the view
MAX_LENGTH = 20_000  # characters of an experiment tag
PICTURES = (names.RIDGES, names.HEATMAP, names.UPDATE_RATIOS, names.TIME_SURFACE, names.CLIPPING)
# MLflow titles a chart of several curves with the list of their names, so the explanation is in the section's name.
LAYERS_SECTION, END_SECTION, COURSE_SECTION, PICTURES_SECTION, UPDATE_SECTION = (
    "Gradient of every layer (RMS)",
    "Each run at its end",
    "Loss, quality and clipping",
    "Each run from step to step",
    "Size of the update over size of the weight, every layer",
)


def write_view(client: MlflowClient, experiment_id: str, keys: Iterable[str], image_steps: Mapping[str, int]) -> None:
    """Write the view for the layers of this run and of the runs that it showed before.

    Args:
        client: A client of the tracking server.
        experiment_id: The experiment that the view belongs to.
        keys: Metric keys of the run.
        image_steps: For each kind of picture, the step shown at first.
    """
    text = client.get_experiment(experiment_id).tags.get(_TAG)
    before = decode_view(text) if text is not None else None
    merged = sorted(set(keys) | set(shown_keys(before["state"]) if before else ()))
    image_steps = {**(shown_images(before["state"]) if before else {}), **image_steps}
    text = encode_view(merged, image_steps, before["createdAt"] if before else _now_ms())
    if text is not None and (before is None or decode_view(text)["state"] != before["state"]):
        client.set_experiment_tag(experiment_id, _TAG, text)


def encode_view(keys: list[str], image_steps: Mapping[str, int], created_ms: int) -> str | None:
    """Return the text of the tag, or None if it does not fit; layers are left out evenly until it does."""
    by_layer = [_of_family(keys, family) for family in BY_LAYER]
    others = [key for key in keys if not any(key in of_family for of_family in by_layer)]
    stride = 1
    while True:
        thinned = [key for of_family in by_layer for key in of_family[::stride]]
        state = view_state(thinned + others, image_steps)
        packed = base64.b64encode(zlib.compress(json.dumps(state).encode(), 9)).decode()
        fields = {"name": VIEW_NAME, "createdAt": created_ms, "updatedAt": _now_ms(), "state": _PREFIX + packed}
        text = json.dumps(fields, separators=(",", ":"))
        if len(text) < MAX_LENGTH:
            return text
        if stride > max(map(len, by_layer)):
            return None
        stride += 1


def decode_view(text: str) -> dict[str, Any]:
    """Return the fields that `encode_view` wrote, with the state decompressed."""
    fields = json.loads(text)
    return fields | {"state": json.loads(zlib.decompress(base64.b64decode(fields["state"].removeprefix(_PREFIX))))}


def view_state(keys: list[str], image_steps: Mapping[str, int]) -> dict[str, Any]:
    """Return the state of the experiment page: our sections of charts, then those of MLflow, collapsed."""
    layers, ratios = (_of_family(keys, family) for family in BY_LAYER)
    losses = [key for key in keys if _is_loss(key)]
    norms = [key for key in (names.NORM_TOTAL, names.NORM_AFTER) if key in keys]
    qualities = [k for k in keys if k.split("/")[0] in names.STAGES and not _is_loss(k) and k != names.LR]
    clipped, rates = ([key for key in keys if key == name] for name in (names.CLIP_FRACTION, names.LR))
    charts = [
        _line(LAYERS_SECTION, "rms", layers, "log"),
        _images(END_SECTION, [key + AT_END for key in PICTURES if key + AT_END in image_steps], 0),
        _line(COURSE_SECTION, "loss", losses, "log"),
        _line(COURSE_SECTION, "quality", qualities, "linear"),
        _line(COURSE_SECTION, "norm", norms, "log"),
        _line(COURSE_SECTION, "clipped", clipped, "linear"),
        _line(COURSE_SECTION, "learning rate", rates, "linear"),
        *(_images(PICTURES_SECTION, [key], image_steps[key]) for key in PICTURES if key in image_steps),
        _line(UPDATE_SECTION, "update", ratios, "log"),
    ]
    at_end = sum(key.endswith(AT_END) for key in image_steps)
    own = [
        _section(LAYERS_SECTION, columns=1, cardHeight=480),
        _section(END_SECTION, columns=1, cardHeight=120 + 190 * min(at_end, 4)),
        _section(COURSE_SECTION, columns=2, cardHeight=360),
        _section(PICTURES_SECTION, columns=2, cardHeight=640),
        _section(UPDATE_SECTION, columns=1, cardHeight=480),
    ]
    own = [section for section in own if any(c and c["metricSectionId"] == section["uuid"] for c in charts)]
    folded = [name for name in _FOLDED if any(key.startswith(f"{name}/") for key in keys)]
    folded = [names.GRADIENT_NONFINITE, *folded]
    return {
        "searchFilter": "",
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": ["attributes.`Source`", f"tags.`{tags.VERDICT}`"],
        "columnOrder": [],
        "columnWidths": {},
        "runsHiddenMode": "FIRST_10_RUNS",
        "viewMaximized": False,
        "runListHidden": False,
        "isAccordionReordered": True,
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "groupBy": None,
        "groupsExpanded": {},
        "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
        "compareRunSections": own + [_section(name, display=False) for name in folded],
        "compareRunCharts": [chart for chart in charts if chart is not None],
    }


def view_keys(keys: Iterable[str]) -> list[str]:
    """Return the keys of a run that the view shows."""
    return shown_keys(view_state(sorted(keys), {}))


def shown_keys(state: dict[str, Any]) -> list[str]:
    """Return the keys of all curves in a state of the page."""
    return [key for chart in state.get("compareRunCharts", []) for key in chart.get("selectedMetricKeys", [])]


def shown_images(state: dict[str, Any]) -> dict[str, int]:
    """Return the step shown at first of each picture in a state of the page."""
    cards = [chart for chart in state.get("compareRunCharts", []) if chart["type"] == "IMAGE"]
    return {key: card["step"] for card in cards for key in card["imageKeys"]}


def _is_loss(key: str) -> bool:
    return key.endswith(f"/{names.LOSS}")


def _of_family(keys: Iterable[str], family: str) -> list[str]:
    return [key for key in keys if names.layer_of(key, family)]


def _section(name: str, **layout: Any) -> dict[str, Any]:
    return {"uuid": _uuid(name), "name": name, "display": True, "isReordered": True} | layout


def _line(section: str, name: str, keys: list[str], scale: str) -> dict[str, Any] | None:
    if not keys:
        return None
    return _chart(section, name, "LINE") | {
        "metricKey": keys[0],
        "selectedMetricKeys": keys,
        "lineSmoothness": 0,
        "xAxisScaleType": "linear",
        "scaleType": scale,
        "range": {},
        "xAxisKey": "step",
        "selectedXAxisMetricKey": "",
        "yAxisKey": "metric",
        "yAxisExpressions": [],
        "ignoreOutliers": False,
        "useGlobalXaxisKey": True,
        "useGlobalLineSmoothing": True,
    }


def _images(section: str, keys: list[str], step: int) -> dict[str, Any] | None:
    """Return a card of pictures: one per run for a single key, else a table with one column per run."""
    if not keys:
        return None
    return _chart(section, keys[0], "IMAGE") | {"imageKeys": keys, "step": step, "showRunParams": False}


def _chart(section: str, name: str, kind: str) -> dict[str, Any]:
    return {
        "uuid": _uuid(name),
        "type": kind,
        "runsCountToCompare": 10,
        "metricSectionId": _uuid(section),
        "deleted": False,
        "isGenerated": False,
    }


def _uuid(name: str) -> str:
    return f"stabletrain-{zlib.crc32(name.encode()):08x}"


def _now_ms() -> int:
    return round(time.time() * 1000)
