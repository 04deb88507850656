from __future__ import annotations

import io
import math

import numpy as np
import pytest
from PIL import Image
from report_fakes import exploding, healthy, nan_run

from stabletrain.record.reader import Record, Series
from stabletrain.report.pictures import draw_curves
from stabletrain.report.pictures.curves import nonfinite_steps, panels_of, smooth, thin
from stabletrain.report.pictures.drawing import labelled_rows, power_of_ten, printable, shorten, whole_decades
from stabletrain.vocabulary import metric_names as names


def test_panels_name_what_is_there():
    panels = {panel.heading: panel for panel in panels_of(healthy(3, 60))}
    assert list(panels) == ["Loss", "Accuracy", "Gradient norm", "Learning rate"]
    assert list(panels["Loss"].lines) == ["training", "validation"]
    assert not panels["Loss"].log
    assert panels["Gradient norm"].log
    assert next(panel.log for panel in panels_of(exploding(3, 60)) if panel.heading == "Loss")
    assert panels_of(Record()) == []


def test_values_that_are_not_finite_are_left_out():
    record = Record(scalars={"train/loss": Series([0, 1, 2], [1.0, math.nan, 2.0]), "val/f1": Series([0], [math.inf])})
    (panel,) = panels_of(record)
    assert panel.lines["training"].steps == [0, 2]


def test_thin_keeps_ends_and_extremes():
    random = np.random.default_rng(0)
    values = random.normal(size=5000)
    steps, kept = thin(Series(list(range(5000)), values.tolist()), max_points=100)
    assert len(kept) <= 102
    assert (steps[0], steps[-1]) == (0, 4999)
    assert (kept.min(), kept.max()) == (values.min(), values.max())
    assert (kept == values[steps]).all()
    assert (np.diff(steps) > 0).all()


def test_smooth_agrees_with_a_slow_reference():
    values = np.random.default_rng(0).normal(size=40)
    expected = [np.mean(values[max(k - 2, 0) : k + 3]) for k in range(40)]
    np.testing.assert_allclose(smooth(values, 5), expected)


def test_nonfinite_steps():
    assert nonfinite_steps(nan_run(3, 200)) == list(range(180, 200))
    assert nonfinite_steps(healthy(3, 20)) == []


@pytest.mark.parametrize(
    "scalars",
    [
        {},
        {"train/loss": Series([0], [2.0])},
        {"train/loss": Series([0, 1], [0.0, 0.0]), "gradient/norm/total": Series([0, 1], [0.0, 0.0])},
        {"train/loss": Series([0, 1], [-1.0, 1e30]), "clip/norm_after": Series([5], [1e-40])},
        {"train/loss": Series(list(range(200)), [0.0] * 200), "gradient/norm/total": Series([7], [1.0])},
        {"gradient/nonfinite/L0.w": Series([4], [1.0]), names.LR: Series([0], [0.1])},
    ],
)
def test_corners_are_drawn(scalars: dict[str, Series]):
    assert Image.open(io.BytesIO(draw_curves(Record(scalars=scalars)))).size[0] == 900


def test_words_and_ticks():
    assert power_of_ten(-12) == "10⁻¹²"
    assert whole_decades(-8, 0) == list(range(-8, 1))
    assert whole_decades(-18, 0) == [-15, -10, -5, 0]
    assert shorten("L03.rnn.weight") == "L03.rnn.weight"
    short = shorten("L03.transformer.encoder.layers.0.attention.weight")
    assert len(short) == 24
    assert short.startswith("L03.")
    assert short.endswith("weight")
    assert "…" in short
    assert labelled_rows(3, 24) == [0, 1, 2]
    rows = labelled_rows(200, 24)
    assert (rows[0], rows[-1], len(set(rows))) == (0, 199, 24)
    assert printable("a\nb 🚀$") == "a b ?$"
