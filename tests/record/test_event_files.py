"""The event file against damage, growth and resumption: nothing is lost but what was torn, nothing comes twice."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded_snapshots import snapshots_of

import stabletrain
from stabletrain.diagnosis.observations import About, Observations
from stabletrain.diagnosis.recorded_run import observe
from stabletrain.record.protos import Event, HistogramProto, Summary
from stabletrain.record.reader import LayerHistogram, Scalar, event_files, load_record, read_entries
from stabletrain.record.writer import FLOAT32_MAX, RecordWriter, frame, masked_crc
from stabletrain.signal.histogram import Histogram
from stabletrain.signal.snapshot import LayerStatistics, Snapshot
from stabletrain.vocabulary import metric_names as names

ROOT = Path(stabletrain.__file__).parents[1]
SIZE = 12


def write(folder: Path, steps=range(4)) -> Path:
    writer = RecordWriter(folder)
    for step in steps:
        writer.write_scalars(step, {"train/loss": step + 0.5})
        writer.write_snapshot(Snapshot(step, (statistics(0, step + 1.0), statistics(1, step + 2.0))))
    writer.close()
    return writer.path


def statistics(index: int, rms: float | None, num_nonfinite: int = 0) -> LayerStatistics:
    counts = np.zeros(256, dtype=np.int64)
    counts[120 + index], counts[255] = SIZE - num_nonfinite, num_nonfinite
    return LayerStatistics(f"L{index:02d}.w", SIZE, rms, num_nonfinite, Histogram(counts))


def entries(folder: Path, position=None) -> list:
    return [entry for entry, _ in read_entries(folder, position)]


def event_offsets(content: bytes) -> list[int]:
    """Return where each event begins, and the end."""
    offsets = [0]
    while offsets[-1] < len(content):
        length = int.from_bytes(content[offsets[-1] :][:8], "little")
        offsets.append(offsets[-1] + 12 + length + 4)
    return offsets


LAYERS = st.lists(
    st.tuples(
        st.floats(0, FLOAT32_MAX, width=32) | st.none(),
        st.dictionaries(st.integers(0, 255), st.integers(1, 2**40), max_size=4),
    ),
    max_size=4,
)


@settings(max_examples=50)
@given(st.dictionaries(st.integers(0, 2**40), LAYERS.filter(bool), max_size=4))
def test_snapshots_come_back_exactly(by_step):
    written = []
    for step, layers in sorted(by_step.items()):
        measured = []
        for index, (rms, filled) in enumerate(layers):
            counts = np.zeros(256, dtype=np.int64)
            counts[list(filled)] = list(filled.values())
            counts[255] = counts[255] % 2**20  # a count of its own too, which is kept in float32
            histogram = Histogram(counts)
            measured.append(LayerStatistics(f"L{index:02d}.w", histogram.size, rms, histogram.num_nonfinite, histogram))
        written.append(Snapshot(step, tuple(measured)))
    with tempfile.TemporaryDirectory() as folder:
        writer = RecordWriter(Path(folder) / "tensorboard")
        for snapshot in written:
            writer.write_snapshot(snapshot)
        writer.close()
        assert snapshots_of(load_record(folder)) == tuple(written)


def test_observe_gives_back_what_was_written(tmp_path):
    writer = RecordWriter(tmp_path / "tensorboard")
    writer.write_info({"choices": {"model": "mlp"}, "parameters": {"optimizer.lr": 0.01}})
    snapshots = tuple(Snapshot(s, (statistics(0, None, SIZE), statistics(1, 0.25))) for s in (0, 9, 19))
    for snapshot in snapshots:
        writer.write_scalars(snapshot.step, {names.NORM_TOTAL: 0.5})
        writer.write_snapshot(snapshot)
    writer.close()
    found = observe(load_record(tmp_path))
    assert found.scalars.keys() == {names.NORM_TOTAL}
    assert found.scalars[names.NORM_TOTAL].steps.tolist() == found.rms["gradient"].steps.tolist() == [0, 9, 19]
    assert found.rms["gradient"].layers == ("L00.w", "L01.w")
    np.testing.assert_array_equal(found.rms["gradient"].values, [[np.nan, 0.25]] * 3)
    np.testing.assert_array_equal(found.nonfinite["gradient"].values, [[SIZE, 0]] * 3)
    assert found.about == About(choices={"model": "mlp"}, settings={"optimizer.lr": 0.01})
    assert observe(load_record(tmp_path / "missing")) == Observations()


def test_statistics_without_histograms_come_back_without(tmp_path):
    with_histogram, without = statistics(0, 0.5), LayerStatistics("L00.w", SIZE, 0.5, 0)
    writer = RecordWriter(tmp_path / "tensorboard")
    writer.write_snapshot(Snapshot(0, (with_histogram,)))
    writer.write_snapshot(Snapshot(1, (without,)))
    writer.close()
    assert snapshots_of(load_record(tmp_path)) == (Snapshot(0, (with_histogram,)), Snapshot(1, (without,)))


def test_the_size_of_a_sparse_gradient_is_that_of_its_step(tmp_path):
    writer = RecordWriter(tmp_path / "tensorboard")
    sizes = {0: 4, 1: 6}
    for step, size in sizes.items():
        counts = np.zeros(256, dtype=np.int64)
        counts[127] = size
        writer.write_snapshot(Snapshot(step, (LayerStatistics("L00.w", size, 1.0, 0, Histogram(counts)),)))
    writer.close()
    assert {s.step: s.layers[0].size for s in snapshots_of(load_record(tmp_path))} == sizes


def test_what_float32_does_not_reach_is_not_written_as_inf(tmp_path):
    writer = RecordWriter(tmp_path / "tensorboard")
    writer.write_scalars(0, {"a/most": FLOAT32_MAX, "a/least": -FLOAT32_MAX, "a/more": 1e39, "a/less": -1e300})
    writer.write_snapshot(Snapshot(0, (LayerStatistics("L00.w", 1, 1e200, 0),)))
    writer.close()
    scalars = load_record(tmp_path).scalars
    assert {name: series.values for name, series in scalars.items()} == {
        "a/most": [FLOAT32_MAX],
        "a/least": [-FLOAT32_MAX],
        "gradient/nonfinite/L00.w": [0.0],
    }


def test_a_flipped_bit_anywhere_in_an_event_ends_the_file_before_it(tmp_path):
    path = write(tmp_path / "whole")
    content = path.read_bytes()
    *_, start, _ = event_offsets(content)
    before = entries(tmp_path / "whole")[:-12]  # the last event holds six numbers of each of two layers
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for place in range(start, len(content)):
        changed = bytearray(content)
        changed[place] ^= 0x10
        (damaged / path.name).write_bytes(changed)
        assert entries(damaged) == before, place
    (damaged / path.name).write_bytes(content)  # the control: without damage all is there
    assert len(entries(damaged)) == len(before) + 12


def test_a_torn_file_does_not_hide_the_next_one(tmp_path):
    first = write(tmp_path, range(3))
    write(tmp_path, range(3, 5))
    whole = entries(tmp_path)
    first.write_bytes(first.read_bytes()[:-1])
    assert entries(tmp_path) == [e for e in whole if not (e.step == 2 and not is_loss(e))]


def is_loss(entry) -> bool:
    return isinstance(entry, Scalar) and entry.name == "train/loss"


def test_files_are_read_in_the_order_in_which_they_were_begun(tmp_path):
    for first_step in (0, 2, 4):
        write(tmp_path, range(first_step, first_step + 2))
    assert len(event_files(tmp_path)) == 3
    assert [e.step for e in entries(tmp_path) if is_loss(e)] == list(range(6))


def test_every_position_of_several_files_gives_the_rest_exactly_once(tmp_path):
    write(tmp_path, range(2))
    write(tmp_path, range(2, 4))
    found = list(read_entries(tmp_path))
    whole = [entry for entry, _ in found]
    begin = 0  # of the event that is being read
    for index, (entry, position) in enumerate(found):
        ends_its_event = is_loss(entry) or getattr(entry, "layer", None) == "L01.w"
        begin = index + 1 if ends_its_event else begin
        assert entries(tmp_path, position) == whole[begin:]
    assert begin == len(whole)


@settings(max_examples=30)
@given(st.lists(st.floats(0, 1), max_size=8))
def test_a_reader_of_a_growing_file_gets_each_event_once(cuts):
    """The writer is seen at any byte; the reader keeps the last position and comes again."""
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder) / "whole")
        content, whole = path.read_bytes(), entries(Path(folder) / "whole")
        growing = Path(folder) / "growing"
        growing.mkdir()
        position, read = None, []
        for share in [*sorted(cuts), 1.0]:
            (growing / path.name).write_bytes(content[: round(share * len(content))])
            found = list(read_entries(growing, position))
            read += [entry for entry, _ in found]
            position = found[-1][1] if found else position
        assert read == whole


def test_the_given_position_is_not_changed(tmp_path):
    write(tmp_path)
    position: dict[str, int] = {}
    list(read_entries(tmp_path, position))
    assert position == {}


def test_what_was_written_before_a_kill_is_there(tmp_path):
    code = (
        "import os, sys; from stabletrain.record.writer import RecordWriter; w = RecordWriter(sys.argv[1])\n"
        "for step in range(50): w.write_scalars(step, {'train/loss': step})\n"
        "os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path / "tensorboard")], cwd=ROOT).returncode == -9
    assert load_record(tmp_path).scalars["train/loss"].steps == list(range(50))


def test_a_closed_record_takes_nothing_more(tmp_path):
    writer = RecordWriter(tmp_path)
    writer.close()
    writer.close()
    with pytest.raises(AssertionError, match="closed"):
        writer.write_scalars(0, {"a/b": 1.0})


def test_nothing_is_appended_for_nothing(tmp_path):
    writer = RecordWriter(tmp_path)
    size = writer.path.stat().st_size
    writer.write_scalars(0, {})
    writer.write_scalars(0, {"a/b": float("nan")})
    writer.write_snapshot(Snapshot(0, ()))
    assert writer.path.stat().st_size == size
    writer.close()


def test_the_frame_is_that_of_tensorflow():
    # CRC-32C of 32 zero bytes is 0x8A9136AA (RFC 3720, B.4); the mask is TFRecord's
    crc = 0x8A9136AA
    assert masked_crc([bytes(12), bytes(20)]) == (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
    assert [len(part) for part in frame([b"ab", b"c"])] == [8 + 4, 2, 1, 4]


def test_tags_of_others_are_no_histograms_of_ours(tmp_path):
    path = write(tmp_path)
    histogram = Summary.Value(tag="weights/histogram/w", histo=HistogramProto(bucket_limit=[1.0], bucket=[1.0]))
    with path.open("ab") as file:
        file.writelines(frame([Event(step=9, summary=Summary(value=[histogram])).SerializeToString()]))
    assert {e.layer for e in entries(tmp_path) if isinstance(e, LayerHistogram)} == {"L00.w", "L01.w"}
