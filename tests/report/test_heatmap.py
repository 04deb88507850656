from __future__ import annotations

import io
import math

import numpy as np
import pytest
from PIL import Image
from report_fakes import healthy, nan_run, vanishing

from stabletrain.record.reader import Record, Series
from stabletrain.report.grid import signal_grid
from stabletrain.report.pictures import draw_heatmap
from stabletrain.report.pictures.cells import color_limits


def record_of(rms: dict[str, dict[int, float]], nonfinite: dict[str, dict[int, float]] | None = None) -> Record:
    record = Record()
    for statistic, source in (("rms", rms), ("nonfinite", nonfinite or {})):
        for layer, by_step in source.items():
            record.scalars[f"gradient/{statistic}/{layer}"] = Series(list(by_step), list(by_step.values()))
    return record


def test_cells_hold_log10_and_gaps():
    record = record_of(
        {"L1.b": {0: 1e-3, 10: 1e-4}, "L0.a": {0: 1e-5, 5: 0.0, 10: math.inf}},
        {"L0.a": {0: 0, 5: 0, 10: 3}, "L1.b": {5: 7}},
    )
    data = signal_grid(record)
    assert data.rows == ["L0.a", "L1.b"]
    assert data.edges.tolist() == [0, 5, 10, 15]
    np.testing.assert_allclose(data.log10, [[-5, -math.inf, math.nan], [-3, math.nan, -4]])
    assert data.nonfinite.tolist() == [[False, False, True], [False, True, False]]


def test_columns_agree_with_a_slow_reference():
    random = np.random.default_rng(3)
    steps = sorted(random.choice(5000, size=1000, replace=False).tolist())
    rms = {f"L{k}.w": {s: float(10 ** random.normal()) for s in steps if random.random() < 0.9} for k in range(3)}
    bad = {"L1.w": {s: float(random.random() < 0.01) for s in steps}}
    data = signal_grid(record_of(rms, bad), max_columns=50)
    assert len(data.edges) <= 51
    for row, layer in enumerate(data.rows):
        for column, (first, last) in enumerate(zip(data.edges[:-1], data.edges[1:], strict=True)):
            logs = [math.log10(v) for s, v in rms[layer].items() if first <= s < last]
            expected = sum(logs) / len(logs) if logs else math.nan
            assert data.log10[row, column] == pytest.approx(expected, nan_ok=True)
            seen = any(v > 0 for s, v in bad.get(layer, {}).items() if first <= s < last)
            assert data.nonfinite[row, column] == seen


def test_scale_is_whole_decades_and_not_narrow():
    assert color_limits(np.array([[-2.5, -2.1]])) == (-8, -2)
    assert color_limits(np.array([[-20.5, -math.inf, math.nan, -2.1]])) == (-21, -2)
    assert color_limits(np.array([[math.nan]])) == (-6, 0)


def luminance(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("L")).astype(float)[110:800, 260:750]


def test_top_is_dark_where_gradients_vanish_and_even_where_healthy():
    for record, contrast in ((healthy(20, 60), False), (vanishing(20, 60), True)):
        cells = luminance(draw_heatmap(record))
        top, bottom = cells[:60].mean(), cells[-60:].mean()
        assert (bottom - top > 80) == contrast
        assert contrast or abs(bottom - top) < 30


def test_nonfinite_steps_are_red():
    image = np.asarray(Image.open(io.BytesIO(draw_heatmap(nan_run(5, 200)))).convert("RGB")).astype(int)
    red = (image[..., 0] > 150) & (image[..., 1] < 60) & (image[..., 2] < 90)
    cells = red[110:800, 255:760]
    assert cells[:, -20:].mean() > 0.95
    assert cells[:, :400].mean() == 0
    assert red[60:95, 255:760].sum() > 30  # the crosses above: Inf and NaN are not marked by color alone


@pytest.mark.parametrize(
    "record",
    [
        Record(),
        record_of({"L0.w": {3: 1e-3}}),
        record_of({"L0.w": {0: 0.0, 1: 0.0}}),
        record_of({}, {"L0.w": {0: 4.0}}),
        record_of({"L0.$x^{": {0: 1e-300, 10**9: 1e30}}),
    ],
    ids=["empty", "one step", "zeros", "only NaN", "wide"],
)
def test_corners_are_drawn(record: Record):
    assert Image.open(io.BytesIO(draw_heatmap(record))).size == (900, 900)
