"""TensorBoard's own reader on our files: tags, their order, histograms, the text page."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager, suppress

import numpy as np
import pytest
import torch
from servers import find_free_port, stop_group
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from stabletrain.record.writer import RecordWriter
from stabletrain.signal.histogram import Histogram
from stabletrain.signal.snapshot import LayerStatistics, Snapshot
from stabletrain.signal.watch import Watch
from stabletrain.vocabulary.signals import UPDATE, WEIGHT

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


@pytest.mark.slow
def test_the_custom_scalars_page_shows_every_chart(tmp_path, page):
    """Only TensorBoard's page can tell whether it takes the layout: it says nothing of one that it does not."""
    for run, num_layers in (("long", NUM_LAYERS), ("short", 3)):
        writer = RecordWriter(tmp_path / run)
        for step in range(3):
            writer.write_snapshot(snapshot(step, num_layers))
            writer.write_scalars(step, {"train/loss": 1.0, "gradient/norm/total": 5.0, "clip/norm_after": 1.0})
        writer.close()
    problems = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("response", lambda answer: problems.append(answer.url) if answer.status >= 400 else None)
    with tensorboard(tmp_path) as address:
        page.goto(f"{address}/#custom_scalars")
        cards = {kind: page.locator(f"tf-custom-scalar-{kind}-chart-card") for kind in ("multi-line", "margin")}
        deadline = time.monotonic() + 60
        shown = {}
        while time.monotonic() < deadline and shown != CHARTS:
            time.sleep(0.2)
            shown = {kind: found.evaluate_all(TITLES_AND_MATCHES) for kind, found in cards.items()}
    assert shown == CHARTS
    assert problems == []


CHARTS = {  # the number of curves beside each: of twelve layers and of three, of eight of those and of three
    "multi-line": [
        ["log10 of the rms, some layers", "11"],
        ["rms of every layer", "15"],
        ["Inf and NaN in every layer", "15"],
        ["size of the update over size of the weight", "15"],
        ["gradient norm before and after", "4"],
        ["loss", "2"],
    ],
    # The short run's own, then the long run's from the input to the output, of which two are in both.
    "margin": [["L02.w", "1"]] + [[f"L{i:02d}.w", "2" if i < 2 else "1"] for i in (0, 1, 3, 4, 6, 7, 9, 11)],
}
TITLES_AND_MATCHES = r"cards => cards.map(c => [c.title, c.shadowRoot.textContent.match(/Matches\s*\((\d+)\)/)?.[1]])"


def snapshot(step, num_layers):
    counts = np.zeros(256, dtype=np.int64)
    counts[110:130] = 1
    layers = [
        LayerStatistics(f"L{i:02d}.w", 20, 10.0 ** (i - num_layers), 0, Histogram(counts)) for i in range(num_layers)
    ]
    plain = [LayerStatistics(x.layer, 20, 0.1, 0) for x in layers]
    return Snapshot(step, tuple(layers), {WEIGHT: tuple(plain), UPDATE: tuple(plain)})


@contextmanager
def tensorboard(folder):
    """TensorBoard's own server, until the block ends."""
    port = find_free_port()
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(folder), "--host", "127.0.0.1"]
    process = subprocess.Popen([*command, "--port", str(port)], start_new_session=True, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 90
        layout = f"http://127.0.0.1:{port}/data/plugin/custom_scalars/layout"
        while time.monotonic() < deadline:
            with suppress(OSError), urllib.request.urlopen(layout, timeout=5) as answer:
                if "L02.w" in answer.read().decode():  # both runs were read
                    break
            time.sleep(0.3)
        yield f"http://127.0.0.1:{port}"
    finally:
        stop_group(process)
