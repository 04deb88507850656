"""Events made as bytes are the events that TensorBoard's own classes would make."""

from __future__ import annotations

import math
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stabletrain.record import writer as record_writer
from stabletrain.record.encoding import FLOAT32_MAX, Histograms, Scalars, encode_event, varint
from stabletrain.record.protos import Event, HistogramProto, Summary
from stabletrain.record.reader import Info, LayerHistogram, Scalar, Vector, load_record, read_entries
from stabletrain.record.snapshots import Snapshots
from stabletrain.record.writer import HISTOGRAMS_COUNT_FOR, MAX_WAITING, RecordWriter
from stabletrain.signal.histogram import log10_edge
from stabletrain.signal.kernels.reduce import measure_tensors, prepare
from stabletrain.signal.layer_statistics import Measures
from stabletrain.signal.snapshot import Snapshot
from stabletrain.vocabulary import metric_names as names

prepare()
Histograms(["x"]).encode(np.zeros((1, 512), np.int64))  # compiling is not part of an example
TAGS = ["gradient/rms/L00.weight", "ü/ß", "x" * 300]
ROWS = st.dictionaries(st.integers(0, 511), st.integers(1, 2**40), max_size=6)


def slow_histogram(row) -> HistogramProto:
    """The same buckets, one after the other."""
    counts = row[:256] + row[256:]
    filled = [k for k in range(1, 255) if counts[k]]
    low, high = (filled[0], filled[-1]) if filled else (1, 0)
    centre = {k: (log10_edge(k) + log10_edge(k + 1)) / 2 for k in range(low, high + 1)}
    return HistogramProto(
        min=log10_edge(low - 1),
        max=log10_edge(high + 2),
        num=float(counts.sum()),
        sum=sum(centre[k] * float(counts[k]) for k in centre),
        sum_squares=sum(centre[k] ** 2 * float(counts[k]) for k in centre),
        bucket_limit=[log10_edge(k) for k in range(low, high + 3)],
        bucket=[float(counts[0]), *(float(counts[k]) for k in range(low, high + 1)), float(counts[255])],
    )


@given(st.lists(ROWS, min_size=1, max_size=3))
def test_histograms_equal_the_slow_ones(rows):
    counts = np.zeros((len(rows), 512), np.int64)
    for row, filled in enumerate(rows):
        for place, count in filled.items():
            counts[row, place] = count
    found = Summary.FromString(Histograms(TAGS[: len(rows)]).encode(counts).tobytes()).value
    assert [value.tag for value in found] == TAGS[: len(rows)]
    for value, row in zip(found, counts, strict=True):
        expected = slow_histogram(row)
        assert list(value.histo.bucket) == list(expected.bucket)
        assert list(value.histo.bucket_limit) == pytest.approx(list(expected.bucket_limit), rel=1e-12)
        for field in ("min", "max", "num", "sum", "sum_squares"):
            assert getattr(value.histo, field) == pytest.approx(getattr(expected, field), rel=1e-9, abs=1e-9)


def test_the_widest_histogram_fits():
    counts = np.full((len(TAGS), 512), 2**50, np.int64)
    found = Summary.FromString(Histograms(TAGS).encode(counts).tobytes()).value
    assert [len(value.histo.bucket) for value in found] == [256] * 3
    assert {count for value in found for count in value.histo.bucket} == {2.0**51}


@given(st.lists(st.floats(width=64), min_size=3, max_size=3))
def test_scalars_equal_the_slow_ones(values):
    scalars = Scalars(TAGS)
    for numbers in (values, [1.0, 2.0, 3.0], values):  # the template is not worn out
        found = Summary.FromString(bytes(scalars.encode(np.array(numbers))))
        expected = [(t, np.float32(v)) for t, v in zip(TAGS, numbers, strict=True) if abs(v) <= FLOAT32_MAX]
        assert [(v.tag, np.float32(v.simple_value)) for v in found.value] == expected


@given(st.integers(0, 2**63 - 1))
def test_events_equal_tensorboards(step):
    summary = Summary(value=[Summary.Value(tag="x", simple_value=0.5)] * 40)
    encoded = b"".join(encode_event(step, 12.5, [summary.SerializeToString()]))
    assert Event.FromString(encoded) == Event(step=step, wall_time=12.5, summary=summary)


def test_varint():
    assert [varint(n) for n in (0, 127, 128, 300)] == [b"\x00", b"\x7f", b"\x80\x01", b"\xac\x02"]


def snapshot(step, *, histograms=True, **signals) -> Snapshot:
    def measures(*tensors):
        return measure_tensors([f"L{i:02d}.w" for i in range(len(tensors))], tensors, histograms=histograms)

    return Snapshot(
        step,
        measures(torch.tensor([1.0, -2.0, 0.0]), torch.tensor([math.nan, 3.0])),
        {name: measures(*tensors) for name, tensors in signals.items()},
    )


def test_what_is_kept_of_each_signal(tmp_path):
    writer = RecordWriter(tmp_path / "tensorboard")
    tensors = {"weight": [torch.ones(3), torch.zeros(2)], "update": [torch.full((3,), 1e-3), torch.ones(2)]}
    writer.write_snapshot(snapshot(7, **tensors, delta=[torch.tensor([math.inf, 2.0])]))
    writer.close()
    record = load_record(tmp_path)
    values = {name: series.values for name, series in record.scalars.items() if not name.startswith("gradient/p")}
    assert values == {
        "gradient/rms/L00.w": [pytest.approx(math.sqrt(5 / 3))],
        "gradient/rms/L01.w": [3.0],
        "gradient/nonfinite/L00.w": [0.0],
        "gradient/nonfinite/L01.w": [1.0],
        "weight/rms/L00.w": [1.0],
        "weight/rms/L01.w": [0.0],
        "update/rms/L00.w": [pytest.approx(1e-3)],
        "update/rms/L01.w": [1.0],
        "update/ratio/L00.w": [pytest.approx(1e-3)],  # of the other the weight is zero
        "delta/rms/L00.w": [2.0],
        "delta/nonfinite/L00.w": [1.0],  # of other signals than the gradient only where above 0
    }
    assert record.scalars["gradient/p50/L01.w"].values[0] == pytest.approx(2 * 2**0.5)  # the middle of 2 to 4
    assert {s: sorted(h) for s, h in record.other_histograms.items()} == {
        "weight": ["L00.w", "L01.w"],
        "update": ["L00.w", "L01.w"],
        "delta": ["L00.w"],
    }
    assert record.histograms_of("update")["L00.w"][7].size == 3
    assert record.of_layers(names.UPDATE_RATIO).keys() == {"L00.w"}


def test_an_empty_snapshot_is_no_event():
    assert Snapshots().encode(Snapshot(0, ())) == []
    assert Snapshots().encode(snapshot(0, histograms=False, update=[])) != []


def test_vectors_come_back(tmp_path):
    writer = RecordWriter(tmp_path / "tensorboard")
    norms = {step: np.array([1e-3, 0.5, step], np.float64) for step in (0, 5)}
    for step, vector in norms.items():
        writer.write_vectors(step, {names.of_layer(names.TIME_NORM, "rnn.l0"): vector})
    writer.close()
    entries = [e for e, _ in read_entries(tmp_path / "tensorboard")]
    assert [type(e) for e in entries] == [Vector, Vector]
    found = load_record(tmp_path).vectors["time/norm/rnn.l0"]
    assert list(found) == [0, 5]
    assert all(np.array_equal(found[step], norms[step].astype(np.float32)) for step in norms)


@pytest.fixture
def flush_s(monkeypatch):
    monkeypatch.setattr(record_writer, "FLUSH_S", 0.5)
    return 0.5


@pytest.mark.parametrize("histograms", [True, False])
def test_snapshots_wait_for_others_but_not_long(tmp_path, flush_s, histograms):
    writer = RecordWriter(tmp_path)
    most = MAX_WAITING // HISTOGRAMS_COUNT_FOR if histograms else MAX_WAITING

    def count():
        entries = [e for e, _ in read_entries(tmp_path) if not isinstance(e, Info)]
        assert any(isinstance(e, LayerHistogram) for e in entries) == histograms
        return len({e.step for e in entries if not (isinstance(e, Scalar) and e.name == "train/loss")})

    def write(step):
        writer.write_snapshot(snapshot(step, histograms=histograms))

    write(0)
    assert count() == 1  # the first after a pause is there at once
    for step in range(1, 4):
        write(step)
    writer.write_scalars(3, {"train/loss": 1.0})
    assert (count(), sum(isinstance(e, Scalar) and e.name == "train/loss" for e, _ in read_entries(tmp_path))) == (1, 1)
    writer.flush()
    assert count() == 4
    for step in range(4, 4 + most):
        write(step)
    assert count() == 4 + most  # as many as there is room for
    write(4 + most)
    assert count() == 4 + most
    time.sleep(flush_s)
    write(5 + most)
    assert count() == 4 + most + 2
    writer.close()
    writer.flush()  # nothing waits: no error


def test_what_a_gpu_has_just_measured_is_looked_at_one_call_later(tmp_path, flush_s):
    looked_at = []

    def on_device(step):
        ready = snapshot(step).layers

        def wait():
            looked_at.append(step)
            return ready.arrays

        layers = Measures(ready.layers, ready.sizes, wait, with_counts=True, on_device=True)
        return Snapshot(step, layers)

    writer = RecordWriter(tmp_path)
    for step in range(3):
        writer.write_snapshot(on_device(step))
        assert looked_at == list(range(step))
        time.sleep(flush_s)
    writer.close()
    assert looked_at == [0, 1, 2]
    assert {e.step for e, _ in read_entries(tmp_path)} == {0, 1, 2}


def test_nothing_is_compiled_once_it_was_prepared(tmp_path):
    script = """
import sys
import torch, stabletrain as st
from stabletrain.record.encoding import encode_
from stabletrain.record.writer import RecordWriter
from stabletrain.signal.kernels.quantiles import find_quantiles_
model, writer = torch.nn.Linear(2, 2), RecordWriter(sys.argv[1])
watch = st.Watch(model)
if sys.argv[2] == "prepared":
    writer.prepare()
before = [f.signatures[:] for f in (encode_, find_quantiles_)]
model(torch.ones(1, 2)).sum().backward()
writer.write_snapshot(watch.step())
writer.close()
print(before == [f.signatures for f in (encode_, find_quantiles_)])
"""
    for how, expected in (("prepared", "True"), ("at once", "False")):
        command = [sys.executable, "-c", script, str(tmp_path), how]
        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.split() == [expected]
