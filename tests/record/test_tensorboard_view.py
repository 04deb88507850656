"""TensorBoard's own reader on our files: tags, their order, histograms, the text page."""

from __future__ import annotations

import json

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from stabletrain.record.writer import RecordWriter
from stabletrain.signal.watch import Watch

NUM_LAYERS = 12


@pytest.fixture
def events(tmp_path):
    """What TensorBoard reads of three watched steps of a network of twelve linear layers."""
    model = nn.Sequential(*(nn.Linear(5, 5, bias=False) for _ in range(NUM_LAYERS)))
    watch, writer = Watch(model), RecordWriter(tmp_path)
    writer.write_info({"run_uid": "abc", "text": "<b>not markup</b>"})
    for step in range(3):
        model.zero_grad()
        model(torch.randn(4, 5)).sum().backward()
        if step == 1:
            model[0].weight.grad[0, :2] = float("nan")
        writer.write_snapshot(watch.step(step=step))
        writer.write_scalars(step, {"train/loss": 2.0**-step})
    writer.close()
    return EventAccumulator(str(tmp_path), size_guidance={"histograms": 0, "scalars": 0, "tensors": 0}).Reload()


def test_tags_sort_in_forward_order(events):
    tags = [f"gradient/histogram/L{i:02d}.{i}.weight" for i in range(NUM_LAYERS)]
    assert events.Tags()["histograms"] == tags == sorted(tags)


def test_counts_sum_to_the_size_of_the_layer(events):
    for tag in events.Tags()["histograms"]:
        for event in events.Histograms(tag):
            histogram = event.histogram_value
            assert histogram.num == sum(histogram.bucket) == 25
            assert len(histogram.bucket) == len(histogram.bucket_limit)
            assert histogram.bucket_limit == sorted(histogram.bucket_limit)
            assert histogram.min < histogram.bucket_limit[0]
            assert histogram.max == histogram.bucket_limit[-1]


def test_the_last_bucket_holds_what_is_not_finite(events):
    tag = "gradient/histogram/L00.0.weight"
    assert [event.histogram_value.bucket[-1] for event in events.Histograms(tag)] == [0, 2, 0]
    assert [event.value for event in events.Scalars("gradient/nonfinite/L00.0.weight")] == [0, 2, 0]


def test_the_mean_lies_where_the_gradient_is(events):
    rms = events.Scalars("gradient/rms/L05.5.weight")[0].value
    histogram = events.Histograms("gradient/histogram/L05.5.weight")[0].histogram_value
    assert 10 ** (histogram.sum / histogram.num) == pytest.approx(rms, rel=0.9)


def test_scalars_keep_their_steps(events):
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(0, 1.0), (1, 0.5), (2, 0.25)]


def test_the_run_is_on_the_text_page(events):
    assert "run/info" in events.Tags()["tensors"]
    assert events.SummaryMetadata("run/info").plugin_data.plugin_name == "text"
    (event,) = events.Tensors("run/info")
    text = event.tensor_proto.string_val[0].decode()
    assert all(line.startswith("    ") for line in text.splitlines())  # a block of code: shown as it stands
    assert json.loads(text) == {"run_uid": "abc", "text": "<b>not markup</b>"}
