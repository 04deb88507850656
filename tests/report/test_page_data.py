from __future__ import annotations

import base64
import json
import math
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_fakes import SPARSE, exploding, healthy, histogram_of, nan_run, vanishing, with_all_signals

from stabletrain.record.reader import Record, Series
from stabletrain.report.grid import Grid, clipped_share, signal_grid, time_grids
from stabletrain.report.page_data import page_data, to_json
from stabletrain.report.pictures.cells import color_limits
from stabletrain.report.quantize import encode_frame, encode_grid
from stabletrain.signal.histogram import NUM_BINS, Histogram
from stabletrain.vocabulary.finding import Finding


def decode_cells(source: dict[str, Any]) -> tuple[list[list[float]], list[list[bool]]]:
    """Decode cells as the page's script does."""
    data = base64.b64decode(source["cells"])
    codes = [struct.unpack_from("<H", data, 2 * k)[0] for k in range(len(data) // 2)]
    num_columns = len(source["edges"]) - 1

    def value(code: int) -> float:
        code &= 0x7FFF
        special = {0: math.nan, 1: -math.inf}
        return special[code] if code in special else source["base"] + (code - 2) * source["quantum"]

    rows = [codes[k * num_columns : (k + 1) * num_columns] for k in range(len(source["rows"]))]
    return [[value(c) for c in row] for row in rows], [[bool(c & 0x8000) for c in row] for row in rows]


def decode_frames(source: dict[str, Any], num_rows: int) -> list[list[dict[str, Any] | None]]:
    """Decode histograms as the page's script does: fractions of zeros, of Inf and NaN, and of the others by bin."""
    data, at, frames = base64.b64decode(source["data"]), 0, []
    for _ in source["steps"]:
        frame: list[dict[str, Any] | None] = []
        for _ in range(num_rows):
            zero, bad, first, number = data[at : at + 4]
            heights = data[at + 4 : at + 4 + number]
            at += 4 + number
            shares = {first + k: h / sum(heights) for k, h in enumerate(heights)}
            frame.append({"zero": zero / 255, "bad": bad / 255, "shares": shares} if zero or bad or number else None)
        frames.append(frame)
    assert at == len(data)
    return frames


def through_json(record: Record, findings: list[Finding] | None = None) -> dict[str, Any]:
    return json.loads(to_json(page_data(record, findings or [])))


@pytest.mark.parametrize("make", [healthy, vanishing, exploding, nan_run])
def test_cells_are_the_records_numbers(make: Any):
    record = make(4, 200)
    (gradient,) = through_json(record)["signals"]
    values, bad = decode_cells(gradient)
    assert gradient["rows"] == record.layers
    assert gradient["edges"] == list(range(201))
    for row, layer in enumerate(record.layers):
        rms, counts = (record.scalars[f"gradient/{s}/{layer}"] for s in ("rms", "nonfinite"))
        at = dict(zip(rms.steps, rms.values, strict=True))
        for step in range(200):
            expected = math.log10(at[step]) if step in at else math.nan
            assert values[row][step] == pytest.approx(expected, abs=0.001, nan_ok=True)
            assert bad[row][step] == (counts.values[step] > 0)


@given(
    st.lists(
        st.one_of(st.floats(-320, 320), st.just(math.nan), st.just(-math.inf)),
        min_size=1,
        max_size=30,
    ),
    st.lists(st.booleans(), min_size=30, max_size=30),
)
def test_a_grid_comes_back_within_its_quantum(values: list[float], flags: list[bool]):
    log10, bad = np.array([values]), np.array([flags[: len(values)]])
    source = encode_grid(Grid(["L0.w"], np.arange(len(values) + 1.0), log10, bad))
    (decoded,), (marked,) = decode_cells(source)
    assert marked == flags[: len(values)]
    for one, other in zip(decoded, values, strict=True):
        assert one == pytest.approx(other, abs=0.51 * source["quantum"], nan_ok=True)


def test_histograms_are_the_records_counts():
    record = nan_run(3, 200)
    (gradient,) = through_json(record)["signals"]
    frames = decode_frames(gradient["frames"], 3)
    assert gradient["frames"]["steps"] == sorted(next(iter(record.histograms.values())))
    assert gradient["frames"]["sizes"] == [300, 300, 300]
    for frame, step in zip(frames, gradient["frames"]["steps"], strict=True):
        for decoded, layer in zip(frame, record.layers, strict=True):
            assert decoded is not None
            histogram = record.histograms[layer][step]
            counts = histogram.counts[1:255]
            assert decoded["bad"] == (1.0 if histogram.num_nonfinite else 0.0)
            filled = {k + 1 for k in np.flatnonzero(counts)}
            assert {k for k, share in decoded["shares"].items() if share} == filled  # a single element is not lost
            for k, share in decoded["shares"].items():
                assert share == pytest.approx(histogram.counts[k] / counts.sum(), abs=0.01)


def test_rows_of_a_frame_tell_nothing_from_zeros():
    histograms = {"zeros": histogram_of(np.zeros(3)), "one": histogram_of(np.array([0.0] * 999 + [math.nan]))}
    empty = Histogram(np.zeros(NUM_BINS, dtype=np.int64))
    data = encode_frame(["missing", "zeros", "one", "empty"], histograms | {"empty": empty})
    assert data == bytes([0, 0, 0, 0, 255, 0, 0, 0, 254, 1, 0, 0, 0, 0, 0, 0])
    ends = histogram_of(np.array([2.0**-126, 2.0**127]))
    assert encode_frame(["ends"], {"ends": ends})[:5] == bytes([0, 0, 1, 254, 255])


def test_share_of_clipped_steps_agrees_with_counting():
    random = np.random.default_rng(0)
    clipped = random.random(300) < np.linspace(0, 1, 300)
    logged = list(range(9, 300, 10))
    fraction = [float(clipped[: s + 1].mean()) for s in logged]
    record = Record(scalars={"clip/fraction": Series(logged, fraction)})
    shares = clipped_share(record, np.arange(0, 301, 10.0))
    assert shares is not None
    np.testing.assert_allclose(shares, clipped.reshape(-1, 10).mean(axis=1), atol=1e-9)
    assert clipped_share(Record(scalars={"clip/fraction": Series([9], [0.0])}), np.arange(3.0)) is None
    assert clipped_share(Record(), np.arange(3.0)) is None
    assert np.isnan(clipped_share(record, np.array([0.0, 300.0, 400.0]))[1])  # pyright: ignore[reportOptionalSubscript]


def test_time_grid_keeps_every_time_step_or_its_mean():
    norms = {0: np.array([1e-3, 1e-2, 1.0]), 7: np.array([np.nan, 0.0])}
    grid = time_grids(Record(vectors={"time/norm/rnn.l0": norms}))["rnn.l0"]
    assert grid.rows == ["t = 0", "t = 1", "t = 2"]
    assert grid.edges.tolist() == [0, 7, 14]
    np.testing.assert_allclose(grid.log10, [[-3, math.nan], [-2, -math.inf], [0, math.nan]])
    assert grid.nonfinite.tolist() == [[False, True], [False, False], [False, False]]
    long = time_grids(Record(vectors={"time/norm/a": {3: 10.0 ** np.arange(10)}}), max_rows=3)["a"]
    assert long.rows == ["t = 0–2", "t = 3–5", "t = 6–9"]
    np.testing.assert_allclose(long.log10[:, 0], [1.0, 4.0, 7.5])


def test_bands_are_quantiles_over_the_layers():
    record = with_all_signals(healthy(11, 40))
    bands = through_json(record)["bands"]
    for column, step in enumerate(bands["steps"]):
        values = sorted(math.log10(s.values[s.steps.index(step)]) for s in record.of_layers("update/ratio").values())
        assert [line[column] for line in bands["log10"]] == pytest.approx([values[1], values[5], values[9]], abs=1e-3)


def test_all_signals_are_there_with_their_own_layers():
    record = with_all_signals(healthy(3, 40))
    data = through_json(record)
    keys = ["gradient", "delta", "activation", "weight", "update", "moment", "clip", "update/ratio"]
    assert [s["key"] for s in data["signals"]] == keys
    assert data["signals"][1]["rows"] == [f"L{k:03d}.layers.{k // 2}.part" for k in range(6)]
    assert [t["label"] for t in data["times"]] == ["rnn.l0", "rnn.l1"]
    assert data["clipping"]
    assert len(data["clipped"]) == 40


HOSTILE = '</script><script>alert(1)</script><!-- & "\u2028'


def test_json_is_safe_inside_a_script():
    record = Record(scalars={f"gradient/rms/{HOSTILE}": Series([0], [1.0])})
    finding = Finding("vanishing", "critical", HOSTILE, 0, 1, {}, HOSTILE)
    text = to_json(page_data(record, [finding]))
    assert not set("<>&\u2028") & set(text)
    data = json.loads(text)
    assert data["signals"][0]["rows"] == [HOSTILE]
    assert data["findings"][0]["layer"] == HOSTILE


@pytest.mark.parametrize(
    "record",
    [
        *SPARSE.values(),
        Record(scalars={"update/ratio/L0.w": Series([0], [0.0])}),
        Record(scalars={"train/loss": Series([0, 1], [1e308, 1.7e308])}),
        Record(vectors={"time/norm/a": {0: np.full(4, np.nan)}, "time/norm/b": {0: np.zeros(0)}}),
    ],
    ids=[*SPARSE, "no update", "huge loss", "time of NaN"],
)
def test_corners_are_plain_json(record: Record):
    data = through_json(record)
    for signal in data["signals"]:
        values, _ = decode_cells(signal)
        assert len(values) == len(signal["rows"]) > 0


def test_reference_is_on_the_scale_of_gradients():
    assert color_limits(np.array([[-2.0]]), (-8, 2)) == (-8, 2)
    assert color_limits(np.array([[-20.0, 5.0]]), (-8, 2)) == (-20, 5)
    assert color_limits(np.array([[math.nan]]), (-8, 2)) == (-8, 2)


def test_a_column_says_when_it_stands_for_several_steps():
    record = healthy(2, 100)
    assert not signal_grid(record).merged
    grid = signal_grid(record, max_columns=30)
    assert grid.merged
    assert grid.edges[-1] == 100  # not beyond the last step
    assert signal_grid(Record(scalars={"gradient/rms/a": Series([0, 10], [1.0, 1.0])})).edges.tolist() == [0, 10, 20]
