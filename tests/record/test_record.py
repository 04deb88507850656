"""What is written is read back exactly, from any place on, whatever was torn off."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from recorded_snapshots import snapshots_of
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from stabletrain.diagnosis.recorded_run import observe
from stabletrain.record.encoding import Histograms
from stabletrain.record.protos import Summary
from stabletrain.record.reader import (
    Info,
    LayerHistogram,
    Scalar,
    decode_histogram,
    event_files,
    load_record,
    read_entries,
)
from stabletrain.record.run_folder import RunFolder, replace_file
from stabletrain.record.writer import RecordWriter
from stabletrain.signal.histogram import Histogram
from stabletrain.signal.snapshot import LayerStatistics, Snapshot
from stabletrain.vocabulary import metric_names as names
from stabletrain.vocabulary.finding import Finding

COUNTS = hnp.arrays(np.int64, 256, elements=st.integers(0, 10**9) | st.just(0))
SPARSE = st.dictionaries(st.integers(0, 255), st.integers(0, 10**6), max_size=5)


def histogram(counts: dict[int, int]) -> Histogram:
    array = np.zeros(256, dtype=np.int64)
    for index, count in counts.items():
        array[index] = count
    return Histogram(array)


def snapshot(step: int, num_layers: int = 2) -> Snapshot:
    layers = tuple(
        LayerStatistics(f"L{i:02d}.w", 6, 0.5 * (step + 1), 1, histogram({0: 1, 100 + i: 4, 255: 1}))
        for i in range(num_layers)
    )
    return Snapshot(step, layers)


def write(folder, steps=range(4)) -> RecordWriter:
    writer = RecordWriter(folder)
    writer.write_info({"run_uid": "abc", "choices": {"model": "rnn"}})
    for step in steps:
        writer.write_scalars(step, {"train/loss": 1.0 / (step + 1), names.NORM_TOTAL: 2.0})
        writer.write_snapshot(snapshot(step))
    writer.close()
    return writer


@given(COUNTS | SPARSE.map(lambda d: histogram(d).counts))
def test_a_histogram_is_read_back_exactly(counts):
    encoded = Histograms(["x"]).encode(np.concatenate([counts, 0 * counts])[None]).tobytes()
    assert decode_histogram(Summary.FromString(encoded).value[0].histo) == Histogram(counts)


def test_a_record_is_read_back(tmp_path):
    write(tmp_path / "tensorboard")
    record = load_record(tmp_path)
    assert record.info["choices"] == {"model": "rnn"}
    assert record.scalars["train/loss"].values == [1.0, 0.5, pytest.approx(1 / 3), 0.25]
    assert record.layers == ["L00.w", "L01.w"]
    assert record.histograms["L01.w"][3] == snapshot(3).layers[1].histogram
    assert snapshots_of(record) == tuple(snapshot(s) for s in range(4))
    observations = observe(record)
    assert observations.scalars[names.NORM_TOTAL].values.tolist() == [2.0] * 4
    assert observations.rms["gradient"].steps.tolist() == [0, 1, 2, 3]
    assert observations.about.choices == {"model": "rnn"}


def test_tensorboard_reads_it_too(tmp_path):
    write(tmp_path)
    events = EventAccumulator(str(tmp_path), size_guidance={"histograms": 0}).Reload()
    assert events.Tags()["histograms"] == ["gradient/histogram/L00.w", "gradient/histogram/L01.w"]
    value = events.Histograms("gradient/histogram/L00.w")[0].histogram_value
    assert (value.num, sum(value.bucket), len(value.bucket)) == (6, 6, 3)
    assert value.bucket_limit == sorted(value.bucket_limit)
    assert "run/info/text_summary" in events.Tags()["tensors"] or "run/info" in events.Tags()["tensors"]


def test_nonfinite_scalars_are_not_written(tmp_path):
    writer = RecordWriter(tmp_path / "tensorboard")
    writer.write_scalars(0, {"a/b": math.nan, "a/c": math.inf, "a/d": 1.0})
    writer.write_scalars(1, {"a/b": math.nan})
    writer.close()
    assert list(load_record(tmp_path).scalars) == ["a/d"]


def test_several_steps_written_at_once_are_as_one_by_one(tmp_path):
    steps = [(0, {"a": 1.0, "b": math.inf}), (1, {"b": math.nan}), (2, {"a": 3.0, "b": 0.5})]
    together, alone = (RecordWriter(tmp_path / x / "tensorboard") for x in ("together", "alone"))
    together.write_steps(steps)
    together.write_steps([])
    for step, scalars in steps:
        alone.write_scalars(step, scalars)
    together.close()
    alone.close()
    found = load_record(tmp_path / "together").scalars
    assert found == load_record(tmp_path / "alone").scalars
    assert {tag: [*zip(x.steps, x.values, strict=True)] for tag, x in found.items()} == {
        "a": [(0, 1.0), (2, 3.0)],
        "b": [(2, 0.5)],
    }


def test_a_writer_that_nobody_closed_keeps_all_and_is_silent(tmp_path):
    script = """
import os, sys
import torch, stabletrain as st
from stabletrain.record.writer import RecordWriter
model = torch.nn.Linear(2, 2)
watch, writer = st.Watch(model), RecordWriter(sys.argv[1])
kept = {"writer": writer}
kept["kept"] = kept  # a cycle lives until the interpreter is torn down
for _ in range(3):
    model(torch.ones(1, 2)).sum().backward()
    writer.write_snapshot(watch.step())
if os.fork() == 0:
    sys.exit()  # a copy of the process has nothing to write
os.wait()
"""
    command = [sys.executable, "-c", script, str(tmp_path / "tensorboard")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    record = load_record(tmp_path)
    assert [s.step for s in snapshots_of(record)] == [0, 1, 2]
    assert sorted(record.histograms["L00.weight"]) == [0, 1, 2]


def test_a_torn_tail_loses_its_event_and_nothing_else(tmp_path):
    path = write(tmp_path / "whole").path
    content = path.read_bytes()
    *_, (before, start), _ = positions(tmp_path / "whole")
    torn = tmp_path / "torn"
    torn.mkdir()
    for end in range(start, len(content)):
        (torn / path.name).write_bytes(content[:end])
        assert [e for e, _ in read_entries(torn)] == before, end


def positions(folder):
    """Return (entries so far, offset) after each event."""
    (name,) = [p.name for p in event_files(folder)]
    entries, found = [], []
    for entry, position in read_entries(folder):
        entries.append(entry)
        offset = position.get(name, 0)  # it moves with the last entry of an event
        if offset > (found[-1][1] if found else 0):
            found.append((list(entries), offset))
    return found


def test_a_wrong_checksum_ends_the_file(tmp_path):
    path = write(tmp_path).path
    whole = [entry for entry, _ in read_entries(tmp_path)]
    content = bytearray(path.read_bytes())
    content[-10] ^= 1
    path.write_bytes(content)
    left = [entry for entry, _ in read_entries(tmp_path)]
    assert left == whole[: len(left)]
    assert {entry.step for entry in whole[len(left) :]} == {3}  # all of the last event, a snapshot of two layers
    assert len(whole) - len(left) == 12


def test_reading_goes_on_where_it_stopped(tmp_path):
    write(tmp_path)
    whole = [entry for entry, _ in read_entries(tmp_path)]
    assert {type(e) for e in whole} == {Info, Scalar, LayerHistogram}
    stops = [position for _, position in read_entries(tmp_path)]
    for index, stop in enumerate(stops):
        rest = [entry for entry, _ in read_entries(tmp_path, stop)]
        assert whole[len(whole) - len(rest) :] == rest
        assert len(rest) >= len(whole) - index - 1  # never less than what is left, at most the event again
    assert [e for e, _ in read_entries(tmp_path, stops[-1])] == []


def test_what_is_appended_later_is_found_later(tmp_path):
    writer = RecordWriter(tmp_path)
    writer.write_scalars(0, {"a/b": 1.0})
    *_, (_, position) = read_entries(tmp_path)
    writer.write_scalars(1, {"a/b": 2.0})
    assert [e.value for e, _ in read_entries(tmp_path, position) if isinstance(e, Scalar)] == [2.0]
    writer.close()


def test_a_resumed_run_has_two_files_and_the_later_value_stands(tmp_path):
    folder = tmp_path / "tensorboard"
    write(folder, range(4))
    later = RecordWriter(folder)
    later.write_scalars(2, {"train/loss": 9.0})
    later.write_scalars(4, {"train/loss": 8.0})
    later.close()
    assert len(event_files(folder)) == 2
    series = load_record(tmp_path).scalars["train/loss"]
    assert series.steps == [0, 1, 2, 3, 4]
    assert series.values[2:] == [9.0, 0.25, 8.0]


def test_a_foreign_file_in_the_folder_is_no_record(tmp_path):
    (tmp_path / "tensorboard").mkdir()
    (tmp_path / "tensorboard" / "events.out.tfevents.1.x").write_bytes(b"not an event file at all, but long enough")
    assert load_record(tmp_path).scalars == {}
    assert load_record(tmp_path / "missing").layers == []


def test_summary_and_findings_round_trip(tmp_path):
    folder = RunFolder(tmp_path)
    assert folder.read_summary() == {}
    assert folder.read_findings() == []
    folder.update_summary(status="running", steps=1)
    assert folder.update_summary(steps=2) == {"status": "running", "steps": 2} == folder.read_summary()
    finding = Finding("vanishing", "critical", "L00.w", 0, 9, {"ratio": -4.0}, "Do this.", ["init=he"])
    folder.write_findings([finding])
    assert folder.read_findings() == [finding]
    with pytest.raises(ValueError, match="JSON"):
        folder.update_summary(bad=math.nan)
    assert folder.read_summary()["steps"] == 2
    assert {p.name for p in tmp_path.iterdir()} == {"summary.json", "findings.json"}


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "a" / "b.txt"
    replace_file(path, b"one")
    replace_file(path, b"two")
    assert path.read_bytes() == b"two"
    assert [p.name for p in path.parent.iterdir()] == ["b.txt"]


@pytest.mark.parametrize(
    ("name", "layer"),
    [("gradient/rms/L00.w", "L00.w"), ("gradient/rmsx/L00.w", None), ("gradient/rms", None), ("weight/rms/L0", None)],
)
def test_layer_of(name, layer):
    assert names.layer_of(name, names.GRADIENT_RMS) == layer
