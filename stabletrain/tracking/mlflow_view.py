"""A ready-made dashboard: the saved view `Gradient health` of an experiment.

MLflow keeps a saved view in an experiment tag. The format is not documented (seen in 3.17.2 and 3.18.0), so it is
written best-effort: a failure costs the view and nothing else.
"""

from __future__ import annotations

import base64
import json
import time
import zlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from stabletrain.record import names
from stabletrain.tracking.points import clean_key

if TYPE_CHECKING:
    from mlflow import MlflowClient

VIEW_ID = "stabletrain-gradient-health"  # one per experiment: a rerun replaces it
VIEW_NAME = "Gradient health"
_TAG = f"mlflow.sharedViewState.{VIEW_ID}"
_PREFIX = "deflate;"
MAX_LENGTH = 20_000  # of an experiment tag
_SECTION = "stabletrain-gradient-health-section"
_RMS_TITLE = "Gradient RMS of every layer"


def write_view(client: MlflowClient, experiment_id: str, keys: Iterable[str], image_step: int) -> str:
    """Write the view over the layers of this run and of those that were in it before; return its id.

    Args:
        client: A client of the tracking server.
        experiment_id: The experiment that gets the view.
        keys: Metric keys of the run.
        image_step: The step whose pictures it opens with.
    """
    tags = client.get_experiment(experiment_id).tags
    before = decode_view(tags[_TAG]) if _TAG in tags else None
    merged = sorted(set(keys) | set(_keys_of(before["state"] if before else {})))
    created = before["createdAt"] if before else _now_ms()
    text = encode_view(merged, image_step, created)
    if text is not None and (before is None or decode_view(text)["state"] != before["state"]):
        client.set_experiment_tag(experiment_id, _TAG, text)
    return VIEW_ID


def encode_view(keys: list[str], image_step: int, created_ms: int) -> str | None:
    """Return the tag's text; layers are thinned out evenly until it fits."""
    layers = [key for key in keys if names.layer_of(key, names.GRADIENT_RMS)]
    others = [key for key in keys if not names.layer_of(key, names.GRADIENT_RMS)]
    stride = 1
    while True:
        state = view_state(layers[::stride] + others, image_step)
        packed = base64.b64encode(zlib.compress(json.dumps(state).encode(), 9)).decode()
        fields = {"name": VIEW_NAME, "createdAt": created_ms, "updatedAt": _now_ms(), "state": _PREFIX + packed}
        text = json.dumps(fields, separators=(",", ":"))
        if len(text) < MAX_LENGTH:
            return text
        if stride > len(layers):
            return None
        stride += 1


def decode_view(text: str) -> dict[str, Any]:
    """Return what `encode_view` wrote, its state unpacked."""
    fields = json.loads(text)
    return fields | {"state": json.loads(zlib.decompress(base64.b64decode(fields["state"].removeprefix(_PREFIX))))}


def view_state(keys: list[str], image_step: int) -> dict[str, Any]:
    """Return the state of the experiment page: one section of charts."""
    layers = [key for key in keys if names.layer_of(key, names.GRADIENT_RMS)]
    losses = [key for key in keys if key.endswith("/loss")]
    norms = [key for key in (names.NORM_TOTAL, names.NORM_AFTER) if key in keys]
    qualities = [k for k in keys if k.split("/")[0] in ("train", "val", "test") and not k.endswith("/loss")]
    charts = [
        _line("rms", _RMS_TITLE, layers, "log"),
        _image("ridges", names.RIDGES, image_step),
        _image("heatmap", names.HEATMAP, image_step),
        _line("norm", "Gradient norm before and after clipping", norms, "log"),
        _line("loss", "Loss", losses, "log"),
        _line("quality", "Quality", qualities, "linear"),
        _line("clipped", "Share of steps clipped", [k for k in keys if k == names.CLIP_FRACTION], "linear"),
    ]
    section = {"uuid": _SECTION, "name": VIEW_NAME, "display": True, "isReordered": True}
    return {
        "searchFilter": "",
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": ["attributes.`Source`", "tags.`stabletrain.verdict`"],
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
        "compareRunSections": [section],
        "compareRunCharts": [chart for chart in charts if chart is not None],
    }


def view_keys(keys: Iterable[str]) -> list[str]:
    """Return those of a run's keys that the view shows."""
    return _keys_of(view_state(sorted({clean_key(key) for key in keys}), 0))


def _keys_of(state: dict[str, Any]) -> list[str]:
    return [key for chart in state.get("compareRunCharts", []) for key in chart.get("selectedMetricKeys", [])]


def _line(name: str, title: str, keys: list[str], scale: str) -> dict[str, Any] | None:
    if not keys:
        return None
    return _chart(name, "LINE") | {
        "displayName": title,
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


def _image(name: str, key: str, step: int) -> dict[str, Any]:
    return _chart(name, "IMAGE") | {"imageKeys": [key], "step": step, "showRunParams": False}


def _chart(name: str, kind: str) -> dict[str, Any]:
    return {
        "uuid": f"stabletrain-{name}",
        "type": kind,
        "runsCountToCompare": 10,
        "metricSectionId": _SECTION,
        "deleted": False,
        "isGenerated": False,
    }


def _now_ms() -> int:
    return round(time.time() * 1000)
