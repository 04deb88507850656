"""Table of the layers with the most extreme gradients and updates, shown on the run's page in MLflow."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from stabletrain.record.reader import Entry, LayerHistogram, Scalar
from stabletrain.tracking import tags
from stabletrain.vocabulary import metric_names as names
from stabletrain.vocabulary.signals import GRADIENT

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

FILE_NAME = "worst_layers.json"
COLUMNS = ("layer", "why", "rms", "rms / last layer's", "Inf and NaN", "update / weight", "zeros", "step")
NUM_EACH = 5  # layers for each reason


@dataclass
class Layer:
    """Latest measurements of a layer.

    Attributes:
        name: Name of the layer.
        rms: Root mean square of its gradient, at the last step at which that was finite.
        num_nonfinite: Number of Inf and NaN in its gradient, summed over the measured steps.
        update_ratio: ‖ΔW‖/‖W‖.
        zeros: Fraction of zeros in its gradient.
        step: Last step at which it was measured.
    """

    name: str
    rms: float | None = None
    num_nonfinite: int = 0
    update_ratio: float | None = None
    zeros: float | None = None
    step: int = -1


@dataclass
class WorstLayers:
    """Reads a record event by event and picks up to `NUM_EACH` layers for each reason.

    | reason | layers |
    |---|---|
    | low gradient, high gradient | with the smallest and the largest rms |
    | Inf or NaN | with the most of them |
    | low update, high update | with the smallest and the largest ‖ΔW‖/‖W‖ |
    | zeros | with the largest fraction of zeros |

    The rms is also given relative to that of the last layer, which is nearest to the loss.
    """

    layers: dict[str, Layer] = field(default_factory=dict)

    def take(self, entries: Iterable[Entry]) -> None:
        """Add the entries of one event; steps that a resumed run repeats are counted once."""
        before: dict[str, int] = {}
        for entry in entries:
            if isinstance(entry, LayerHistogram) and entry.signal == GRADIENT:
                histogram = entry.histogram
                self._layer(entry.layer).zeros = histogram.num_zero / histogram.size if histogram.size else None
            elif isinstance(entry, Scalar):
                if name := names.layer_of(entry.name, names.GRADIENT_RMS):
                    self._layer(name).rms = entry.value
                elif name := names.layer_of(entry.name, names.UPDATE_RATIO):
                    self._layer(name).update_ratio = entry.value
                elif name := names.layer_of(entry.name, names.GRADIENT_NONFINITE):
                    layer = self._layer(name)
                    if entry.step > before.setdefault(name, layer.step):
                        layer.num_nonfinite += int(entry.value)
                        layer.step = entry.step

    def table(self) -> str:
        """Return the picked layers in forward order, as the JSON of a table; empty if there are none."""
        reasons = self._reasons()
        last = next((x.rms for _, x in sorted(self.layers.items(), reverse=True) if x.rms), None)
        rows = []
        for name, x in sorted(self.layers.items()):
            if name not in reasons:
                continue
            against_last = x.rms / last if last and x.rms is not None else None
            shares = map(_short, (x.rms, against_last, x.num_nonfinite, x.update_ratio, x.zeros))
            rows.append((name, ", ".join(reasons[name]), *shares, x.step))
        return json.dumps({"columns": COLUMNS, "data": rows}) if rows else ""

    def _layer(self, name: str) -> Layer:
        return self.layers.setdefault(name, Layer(name))

    def _reasons(self) -> dict[str, list[str]]:
        reasons: dict[str, list[str]] = {}
        for why, key, largest, is_one_of_two in (
            ("low gradient", lambda x: x.rms, False, True),
            ("high gradient", lambda x: x.rms, True, True),
            ("Inf or NaN", lambda x: x.num_nonfinite or None, True, False),
            ("low update", lambda x: x.update_ratio, False, True),
            ("high update", lambda x: x.update_ratio, True, True),
            ("zeros", lambda x: x.zeros or None, True, False),
        ):
            found = [(value, name) for name, x in self.layers.items() if (value := key(x)) is not None]
            most = (
                max(1, len(found) // 2) if is_one_of_two else NUM_EACH
            )  # no layer is both among the smallest and the largest
            for _, name in sorted(found, reverse=largest)[: min(NUM_EACH, most)]:
                reasons.setdefault(name, []).append(why)
        return reasons


def _short(number: float | None) -> float | None:
    """Round to three digits: the page cuts off longer numbers, and with them the power of ten."""
    return number if number is None or isinstance(number, int) else float(f"{number:.3g}")


def mark_as_table(client: MlflowClient, run: Run) -> None:
    """Make MLflow's page show the file as a table.

    `MlflowClient.log_table` appends to an existing table, so that layers shipped a second time would be in it twice.
    Hence the file is uploaded like any other, in the format of `log_table`.
    """
    marks = json.loads(run.data.tags.get(tags.LOGGED_ARTIFACTS, "[]"))
    mark = {"path": FILE_NAME, "type": "table"}
    if mark not in marks:
        client.set_tag(run.info.run_id, tags.LOGGED_ARTIFACTS, json.dumps([*marks, mark]))
