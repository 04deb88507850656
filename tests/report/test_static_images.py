from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image
from report_fakes import healthy, vanishing, with_all_signals

from stabletrain.record.reader import Record, Series
from stabletrain.report.pictures import draw_clipping, draw_heatmap, draw_time_surface, draw_update_ratios
from stabletrain.report.pictures.clip_norms import has_clipping
from stabletrain.report.static_images import stills
from stabletrain.vocabulary.finding import Finding

DRAWINGS = [draw_time_surface, draw_update_ratios, draw_clipping]


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def luminance(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("L")).astype(float)


@pytest.mark.parametrize("draw", DRAWINGS)
def test_nothing_to_draw_is_said(draw: Callable[[Record], bytes]):
    plain, empty = healthy(2, 30), Record()
    plain.scalars["clip/norm_after"] = plain.scalars["gradient/norm/total"]
    assert draw(plain) == draw(empty)
    assert draw(with_all_signals(healthy(2, 30))) != draw(empty)


def surface(rate: float) -> Record:
    norms = (10.0 ** (rate * np.arange(40)[::-1])).astype("<f4")
    return Record(vectors={"time/norm/rnn.l0": {s: norms for s in range(0, 100, 10)}})


def test_surface_is_dark_at_the_beginning_where_gradients_vanish_through_time():
    def contrast(record: Record) -> float:
        cells = luminance(draw_time_surface(record))[80:340, 130:740]
        return float(cells[-40:].mean() - cells[:40].mean())

    assert contrast(surface(-0.2)) > 80
    assert contrast(surface(0.2)) < -80
    assert abs(contrast(surface(0.0))) < 5


def test_many_recurrent_layers_are_the_first_and_the_last():
    norms = {0: np.ones(5, dtype="<f4")}
    record = Record(vectors={f"time/norm/rnn.l{k}": norms for k in range(9)})
    assert luminance(draw_time_surface(record)).shape[0] == 4 * 420


def test_band_of_update_ratios_stands_where_the_ratios_are():
    def height_of_band(log10: float) -> float:
        record = Record()
        for k in range(9):
            record.scalars[f"update/ratio/L{k}.w"] = Series(list(range(50)), [10.0 ** (log10 + 0.05 * k)] * 50)
        image = pixels(draw_update_ratios(record))[60:400, 120:860]
        blue = (image[..., 2] - image[..., 0] > 60).sum(axis=1)
        return float(np.flatnonzero(blue > 500).mean())

    assert height_of_band(-1.5) < height_of_band(-4.5) - 100  # higher up


def test_clipping_is_seen_in_norms_or_in_the_share():
    assert has_clipping(with_all_signals(healthy(2, 30)))
    assert has_clipping(Record(scalars={"clip/fraction": Series([9], [0.1])}))
    assert not has_clipping(Record(scalars={"clip/fraction": Series([9], [0.0])}))
    without_norms = Record(scalars={"clip/fraction": Series([9], [0.1])})
    blue = pixels(draw_clipping(without_norms))[60:110, 120:800]
    assert ((blue[..., 2] > 150) & (blue[..., 0] < 60)).sum() > 100  # the bar of the fraction is drawn


def test_findings_are_outlined_where_they_are():
    record = vanishing(10, 50)
    plain = pixels(draw_heatmap(record))
    finding = Finding("vanishing", "critical", record.layers[3], 10, 30, {}, "")
    rows, columns = np.nonzero((pixels(draw_heatmap(record, findings=[finding])) != plain).any(axis=2))
    row_height, left, width = 0.79 * 900 / 10, 0.28 * 900, 0.57 * 900
    assert rows.min() == pytest.approx(99 + 3 * row_height, abs=6)
    assert columns.min() == pytest.approx(left + width * 10 / 50, abs=6)
    assert columns.max() == pytest.approx(left + width * 31 / 50, abs=6)
    elsewhere = Finding("vanishing", "critical", "L99.not_there", 10, 30, {}, "")
    later = Finding("vanishing", "critical", None, 1000, 2000, {}, "")
    assert (pixels(draw_heatmap(record, findings=[elsewhere, later])) == plain).all()


def test_stills_are_only_of_what_was_recorded():
    assert {k for k, v in stills(with_all_signals(healthy(2, 30))).items() if not v} == set()
    assert {k for k, v in stills(healthy(2, 30)).items() if not v} == {"time_surface", "update_ratios", "clipping"}
    assert not any(stills(Record()).values())
