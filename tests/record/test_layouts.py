"""The layout of TensorBoard's custom-scalars page: written when it has something to add, and the same for all runs."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.util.tensor_util import make_ndarray

from stabletrain.record.layouts import LOG10_RMS, MEDIAN, TAG, encode_layout, families_of, layers_shown
from stabletrain.record.reader import load_record
from stabletrain.record.writer import RecordWriter
from stabletrain.signal.histogram import Histogram
from stabletrain.signal.layer_statistics import Measures
from stabletrain.signal.snapshot import LayerStatistics, Snapshot
from stabletrain.vocabulary.signals import DELTA, UPDATE, WEIGHT

BANDS = "Gradient: p05, p50 and p95 of log10|g|, zeros left out"
ALWAYS = {LOG10_RMS, "gradient/rms", "gradient/nonfinite"}
LAYERS = [f"L{i:02d}.layers.{i // 2}.{'bias' if i % 2 else 'weight'}" for i in range(24)]


def snapshot(step, layers=LAYERS, *, histograms=True, signals=()):
    counts = np.zeros(256, dtype=np.int64)
    counts[120] = 12
    found = [LayerStatistics(layer, 12, 0.01, 0, Histogram(counts) if histograms else None) for layer in layers]
    return Snapshot(step, tuple(found), {signal: tuple(found) for signal in signals})


def layouts_in(folder):
    """Every layout of the record as {category: {chart: patterns or series}}, with the step of each."""
    events = EventAccumulator(str(folder), size_guidance={"tensors": 0, "scalars": 0}).Reload()
    if TAG not in events.Tags()["tensors"]:
        return []
    assert events.SummaryMetadata(TAG).plugin_data.plugin_name == "custom_scalars"
    return [(e.step, decode(e.tensor_proto.string_val[0])) for e in events.Tensors(TAG)]


def decode(encoded):
    layout = layout_pb2.Layout.FromString(encoded)
    return {
        category.title: {
            chart.title: list(chart.multiline.tag)
            or [(s.value, s.lower, s.upper) for s in chart.margin.series]  # one of the two
            for chart in category.chart
        }
        for category in layout.category
    }


def test_it_is_written_once_and_again_when_there_is_more_to_show(tmp_path):
    writer = RecordWriter(tmp_path)
    writer.write_scalars(0, {"train/loss": 1.0})
    for step in range(3):
        writer.write_snapshot(snapshot(step, histograms=False))
    for step in range(3, 6):
        writer.write_snapshot(snapshot(step, signals=(WEIGHT, UPDATE, DELTA)))
    writer.write_snapshot(snapshot(6, histograms=False))
    writer.close()
    (first, before), (second, after) = layouts_in(tmp_path)
    assert (first, second) == (0, 3)
    assert list(before) == ["Gradient", "Clipping", "Loss"]
    assert list(after) == ["Gradient", BANDS, "Update", "Clipping", "Loss"]


def test_a_run_without_a_layer_has_no_layout(tmp_path):
    writer = RecordWriter(tmp_path)
    writer.write_scalars(0, {"train/loss": 1.0})
    writer.write_snapshot(snapshot(0, layers=()))
    writer.close()
    assert layouts_in(tmp_path) == []


@pytest.mark.parametrize(
    ("histograms", "signals", "more"),
    [
        (False, (), set()),
        (True, (), {MEDIAN}),
        (False, (DELTA,), {"delta/rms"}),
        (False, (UPDATE,), set()),  # no ratio without the weight
        (True, (UPDATE, WEIGHT), {MEDIAN, "update/ratio"}),
    ],
)
def test_the_families_are_those_that_the_record_gets(tmp_path, histograms, signals, more):
    taken = snapshot(0, histograms=histograms, signals=signals)
    assert families_of(taken) == ALWAYS | more
    writer = RecordWriter(tmp_path / "tensorboard")
    writer.write_snapshot(taken)
    writer.close()
    record = load_record(tmp_path)
    assert families_of(taken) - {LOG10_RMS, MEDIAN} <= {name.rpartition("/")[0] for name in record.scalars}
    assert (record.vectors, record.info) == ({}, {})  # the layout is for TensorBoard alone


def test_every_chart_finds_its_curves_and_no_others():
    """TensorBoard compares a pattern with the beginning of a name (`re.match`)."""
    layout = decode(encode_layout(LAYERS, ALWAYS | {MEDIAN, "update/ratio", "delta/rms"}))
    families = ["gradient/rms", "gradient/nonfinite", "gradient/p50", "update/ratio", "update/rms", "delta/rms"]
    families += [LOG10_RMS]
    tags = [f"{family}/{layer}" for family in families for layer in LAYERS]
    tags += ["train/loss", "val/loss", "train/loss_scale", "gradient/norm/total", "clip/norm_after", "clip/fraction"]
    found = {
        chart: [tag for tag in tags if any(re.match(pattern, tag) for pattern in patterns)]
        for title, charts in layout.items()
        for chart, patterns in charts.items()
        if title != BANDS
    }
    assert found == {
        "log10 of the rms, some layers": tags[144:168],
        "rms of every layer": tags[:24],
        "Inf and NaN in every layer": tags[24:48],
        "rms at the output of every layer (delta)": tags[120:144],
        "size of the update over size of the weight": tags[72:96],
        "gradient norm before and after": ["gradient/norm/total", "clip/norm_after"],
        "loss": ["train/loss", "val/loss"],
    }


def test_the_log10_of_some_layers_is_for_tensorboard_alone(tmp_path):
    layers = [f"L{i:03d}.w" for i in range(15)]
    rms = [[0.01, 0.0, None, math.inf, 100.0, 1e-40, 3.0, 1.0][i // 2] for i in range(15)]  # of every second layer
    writer = RecordWriter(tmp_path / "tensorboard")
    for step in range(2):
        found = [LayerStatistics(layer, 4, value, 0) for layer, value in zip(layers, rms, strict=True)]
        writer.write_snapshot(Snapshot(step, tuple(found)))
    writer.write_snapshot(Snapshot(2, tuple(found[:1])))  # the others were frozen
    writer.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"tensors": 0}).Reload()
    tags = [tag for tag in events.Tags()["tensors"] if tag.startswith(LOG10_RMS)]
    expected = {"L000.w": -2.0, "L008.w": 2.0, "L010.w": -40.0, "L012.w": math.log10(3), "L014.w": 0.0}
    assert tags == [f"{LOG10_RMS}/{layer}" for layer in expected]
    for tag, value in zip(tags, expected.values(), strict=True):
        assert events.SummaryMetadata(tag).plugin_data.plugin_name == "scalars"
        points = [(e.step, float(make_ndarray(e.tensor_proto))) for e in events.Tensors(tag)]
        assert points == [(step, pytest.approx(value)) for step in range(3 if tag.endswith("L000.w") else 2)]
    assert not any("log10" in name for name in load_record(tmp_path).scalars)


@pytest.mark.parametrize("as_arrays", [True, False])
def test_quantiles_are_those_of_what_is_not_zero(tmp_path, as_arrays):
    random = np.random.default_rng(0)
    layers = [f"L{i:02d}.w" for i in range(10)]
    found = []
    for i, layer in enumerate(layers):
        counts = np.zeros(256, dtype=np.int64)
        if i != 9:  # one has nothing but zeros
            counts[100 + i : 120 + i] = random.integers(0, 50, 20)
        counts[0], counts[255] = 1000, 3
        found.append(LayerStatistics(layer, int(counts.sum()), 1.0, 3, Histogram(counts)))
    writer = RecordWriter(tmp_path)
    writer.write_snapshot(Snapshot(4, Measures.of(found) if as_arrays else tuple(found)))
    writer.close()
    before = [x.histogram.counts.sum() for x in found]
    events = EventAccumulator(str(tmp_path), size_guidance={"tensors": 0}).Reload()
    shown = [found[i] for i in (0, 1, 2, 3, 5, 6, 7)]
    for name, share in (("p05", 0.05), ("p50", 0.5), ("p95", 0.95)):
        for x in shown:
            ((step, value),) = [
                (e.step, float(make_ndarray(e.tensor_proto)))
                for e in events.Tensors(f"gradient/log10_{name}/{x.layer}")
            ]
            without_zeros = Histogram(np.concatenate([[0], x.histogram.counts[1:]]))
            assert (step, value) == (4, pytest.approx(math.log10(without_zeros.quantile(share)), rel=1e-5))
        assert f"gradient/log10_{name}/L09.w" not in events.Tags()["tensors"]
    assert [x.histogram.counts.sum() for x in found] == before  # the record's own counts keep their zeros


def test_a_band_is_drawn_around_the_median():
    bands = decode(encode_layout(LAYERS[:1], ALWAYS | {MEDIAN}))[BANDS]
    layer = LAYERS[0]
    assert bands == {layer: [tuple(f"gradient/log10_{q}/{layer}" for q in ("p50", "p05", "p95"))]}


@pytest.mark.parametrize("num", [1, 2, 8, 9, 200, 1000])
def test_the_bands_are_few_and_go_from_the_first_layer_to_the_last(num):
    layers = [f"L{i:03d}.w" for i in range(num)]
    chosen = layers_shown(layers)
    assert len(chosen) == len(set(chosen)) == min(num, 8)
    assert (chosen[0], chosen[-1]) == (layers[0], layers[-1])
    gaps = np.diff([layers.index(layer) for layer in chosen])
    assert gaps.size == 0 or gaps.max() - gaps.min() <= 1


def test_biases_are_passed_over_unless_there_is_nothing_else():
    assert layers_shown(LAYERS, 4) == [LAYERS[i] for i in (0, 6, 14, 22)]
    assert layers_shown(["L00.bias", "L01.rnn.bias_hh_l0"]) == ["L00.bias", "L01.rnn.bias_hh_l0"]
