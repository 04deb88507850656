from __future__ import annotations

import io
import math

import numpy as np
import pytest
from PIL import Image
from report_fakes import exploding, gradient_histogram, healthy, histogram_of, layer_name, nan_run, vanishing

from stabletrain.record.reader import Record
from stabletrain.report.pictures import draw_ridges, ridge_limits
from stabletrain.report.pictures.ridges import brief_count, density, log10_median, note_of
from stabletrain.signal.histogram import NUM_BINS, Histogram


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def last_step(record: Record) -> tuple[dict[str, Histogram], int]:
    step = max(next(iter(record.histograms.values())))
    return {layer: by_step[step] for layer, by_step in record.histograms.items()}, step


def colored_columns(image: np.ndarray, row_share: tuple[float, float]) -> np.ndarray:
    """Return the columns that hold ridge colors (neither gray nor white nor red) in a band of the plot's rows."""
    top, bottom = (int((0.09 + 0.81 * share) * image.shape[0]) for share in row_share)
    plot = image[top:bottom, 260:740]
    colored = (plot.max(axis=2) - plot.min(axis=2) > 60) & (plot[..., 0] < plot[..., 1:].max(axis=2))
    return 260 + np.flatnonzero(colored.any(axis=0))


def test_density_agrees_with_a_slow_reference():
    random = np.random.default_rng(0)
    values = np.concatenate([random.normal(size=500) * 1e-3, np.zeros(40), [np.inf, np.nan]])
    x, heights = density(histogram_of(values))
    kept = [abs(v) for v in values if math.isfinite(v) and v != 0]
    for point, height in zip(x, heights, strict=True):
        half = math.log10(2) / 2
        inside = sum(point - half <= math.log10(v) < point + half for v in kept)
        assert height == pytest.approx(inside / len(kept) / math.log10(2), abs=1e-12)
    assert np.trapezoid(heights, x) == pytest.approx(1)
    assert heights[0] == heights[-1] == 0


@pytest.mark.parametrize("values", [[], [0.0, 0.0], [math.nan], [math.inf, 0.0]])
def test_density_of_nothing_is_empty(values: list[float]):
    histogram = histogram_of(np.array(values))
    assert density(histogram)[0].size == 0
    assert log10_median(histogram) is None


def test_density_of_one_element():
    x, heights = density(histogram_of(np.array([1.5])))
    assert len(x) == 3
    assert np.trapezoid(heights, x) == pytest.approx(1)


def test_median_leaves_out_zeros():
    values = np.concatenate([np.full(3, 1e-4), np.zeros(97)])
    assert log10_median(histogram_of(values)) == pytest.approx(-4, abs=math.log10(2))


def test_limits_hold_the_record_and_are_whole_even_decades():
    for record in (healthy(6, 40), vanishing(6, 40), exploding(6, 40)):
        low, high = ridge_limits(record)
        assert low % 2 == 0
        assert high % 2 == 0
        assert high - low >= 8
        for by_step in record.histograms.values():
            for histogram in by_step.values():
                median = log10_median(histogram)
                assert median is not None
                assert low < median < high
        assert ridge_limits(last_step(record)[0])[1] <= high


def test_limits_of_nothing():
    assert ridge_limits(Record()) == ridge_limits({}) == ridge_limits(Record(histograms={"L0.w": {}}))
    assert ridge_limits({"L0.w": histogram_of(np.full(3, np.nan))}) == ridge_limits({})


def test_ridges_of_a_healthy_run_stand_below_one_another_and_those_of_a_vanishing_one_lean_left():
    positions = {}
    for name, record in {"healthy": healthy(20, 40), "vanishing": vanishing(20, 40), "big": exploding(20, 40)}.items():
        histograms, step = last_step(record)
        image = pixels(draw_ridges(histograms, step=step, limits=(-20, 10)))
        assert image.shape == (900, 900, 3)
        positions[name] = [np.median(colored_columns(image, band)) for band in ((0.03, 0.15), (0.85, 0.97))]
    top, bottom = positions["healthy"]
    assert abs(top - bottom) < 25
    assert positions["vanishing"][0] < top - 100
    assert positions["vanishing"][1] > positions["vanishing"][0] + 100
    assert positions["big"][0] > top + 100


def test_order_is_that_of_the_forward_pass_whatever_the_mapping_says():
    histograms, step = last_step(vanishing(6, 20))
    backwards = dict(reversed(histograms.items()))
    assert draw_ridges(histograms, step=step) == draw_ridges(backwards, step=step)


def test_nonfinite_is_marked_in_red_at_the_right_and_only_then():
    def red_at_right(histograms: dict[str, Histogram]) -> int:
        right = pixels(draw_ridges(histograms, step=1))[:, 755:]
        return int(((right[..., 0] > 130) & (right[..., 1] < 80)).sum())

    good, _ = last_step(healthy(5, 20))
    bad = good | {layer_name(2, 5): histogram_of(np.array([1e-3] * 50 + [math.nan]))}
    assert red_at_right(good) == 0
    assert red_at_right(bad) > 50


def test_notes():
    assert note_of(histogram_of(np.ones(10))) == ("", False)
    assert note_of(histogram_of(np.array([0.0] + [1.0] * 99))) == ("", False)  # 1% is not notable
    assert note_of(histogram_of(np.array([0.0] * 34 + [1.0] * 66))) == ("34% zero", False)
    assert note_of(histogram_of(np.array([0.0] * 999 + [1.0]))) == ("99% zero", False)  # not 100%
    assert note_of(histogram_of(np.zeros(3))) == ("all zero", False)
    assert note_of(histogram_of(np.array([math.nan, math.inf, 0.0]))) == ("⚠ 2 Inf/NaN", True)
    assert note_of(histogram_of(np.full(4, np.nan))) == ("⚠ all Inf/NaN", True)
    assert note_of(Histogram(np.zeros(NUM_BINS, dtype=np.int64))) == ("", False)
    assert [brief_count(n) for n in (950, 12_345, 3_000_000, 2 * 10**9)] == ["950", "12k", "3M", "2G"]


@pytest.mark.parametrize("num_layers", [0, 1, 2, 5, 25, 41, 200])
def test_any_number_of_layers(num_layers: int):
    histograms = {layer_name(k, num_layers): gradient_histogram(-3, size=30, seed=k) for k in range(num_layers)}
    assert pixels(draw_ridges(histograms, step=7, title="hostile $\\frac{ _^ 名前 🚀\n run")).shape == (900, 900, 3)


def num_colored(histograms: dict[str, Histogram], limits: tuple[float, float] | None = None) -> int:
    """Return the number of pixel columns that contain a ridge."""
    return colored_columns(pixels(draw_ridges(histograms, step=0, limits=limits)), (0.0, 1.0)).size


def test_corners_are_drawn_without_a_ridge():
    histograms, _ = last_step(nan_run(4, 200))
    assert num_colored(histograms, (-6, 2)) == 0  # NaN only
    assert num_colored({"L0." + "very_long_$name." * 9: histogram_of(np.zeros(9))}) == 0
    zeros_and_ones = {"L0.w": histogram_of(np.zeros(9)), "L1.w": histogram_of(np.ones(9))}
    assert num_colored(zeros_and_ones, (-9, -8)) == 0  # beyond the axis
    assert num_colored(zeros_and_ones, (-4, 4)) > 10
