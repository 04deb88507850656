"""The bounded reader against the full one: equal on short records, a bounded and exact part of long ones."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stabletrain.diagnosis.history import History, Rows
from stabletrain.diagnosis.recorded_run import observe, replay
from stabletrain.record.bounded_reader import BoundedReader, load_bounded
from stabletrain.record.histogram_columns import MIN_STEPS
from stabletrain.record.reader import Record, load_record
from stabletrain.record.step_table import StepTable
from stabletrain.record.writer import RecordWriter
from stabletrain.signal.histogram import NUM_BINS, Histogram
from stabletrain.signal.snapshot import LayerStatistics, Snapshot
from stabletrain.vocabulary import metric_names as names
from stabletrain.vocabulary.signals import DEAD, DELTA, UPDATE, WEIGHT

LAYERS = tuple(f"L{k:02d}.net.{k}.weight" for k in range(12))
SIZE = 40


def histogram(seed: int) -> Histogram:
    counts = np.bincount(np.random.default_rng(seed).integers(0, NUM_BINS, SIZE), minlength=NUM_BINS)
    return Histogram(counts.astype(np.int64))


def snapshot(step: int, *, counted: bool, others: bool, missing: int | None = None, bad: bool = False) -> Snapshot:
    def statistics(k: int, scale: float, with_counts: bool) -> LayerStatistics:
        rms = None if k == missing else scale * (step + 1) / (k + 1)
        return LayerStatistics(LAYERS[k], SIZE, rms, 7 * (bad and k == 3), histogram(step + k) if with_counts else None)

    found = Snapshot(step, tuple(statistics(k, 1.0, counted) for k in range(len(LAYERS))))
    if others:
        for signal, scale in {DELTA: 0.1, WEIGHT: 2.0, UPDATE: 0.01}.items():
            found.signals[signal] = tuple(statistics(k, scale, counted) for k in range(len(LAYERS)))
        found.units = {DEAD: {LAYERS[0]: 0.25, LAYERS[5]: 0.5}}
    return found


def write(
    run_dir: Path, steps: range, *, every: int = 1, missing: dict | None = None, bad: frozenset[int] = frozenset()
) -> Path:
    """Record some steps as a new event file, with histograms on every `every`-th; return the file."""
    writer = RecordWriter(run_dir / "tensorboard")
    writer.write_info({"run_uid": "x", "training": {"num_steps": 100}})
    for step in steps:
        counted = step % every == 0
        where = (missing or {}).get(step)
        writer.write_snapshot(snapshot(step, counted=counted, others=counted, missing=where, bad=step in bad))
        writer.write_scalars(step, {names.TRAIN_LOSS: 1 / (step + 1), names.NORM_TOTAL: 2.0 + step})
        if step % 3 == 0:
            writer.write_vectors(step, {names.of_layer(names.TIME_NORM, "rnn.l0"): np.arange(4.0) + step})
    writer.close()
    return writer.path


def plain(record: Record) -> dict:
    """Return a record's content as lists, with the order of its names."""
    return {
        "scalars": [
            (name, [int(s) for s in x.steps], [float(v) for v in x.values]) for name, x in record.scalars.items()
        ],
        "histograms": [(layer, dict(by_step)) for layer, by_step in record.histograms.items()],
        "others": {signal: dict(found) for signal, found in record.other_histograms.items()},
        "vectors": {name: {s: v.tolist() for s, v in found.items()} for name, found in record.vectors.items()},
        "info": record.info,
    }


def assert_same_observations(one: Record, other: Record) -> None:
    expected, found = observe(one), observe(other)
    for field in ("rms", "nonfinite", "units", "time", "scalars"):
        left, right = getattr(expected, field), getattr(found, field)
        assert list(left) == list(right), field
        for key in left:
            for a, b in zip(left[key], right[key], strict=True):
                np.testing.assert_array_equal(np.asarray(a), np.asarray(b), err_msg=f"{field} {key}")
    assert expected.about == found.about


def test_a_short_record_is_the_same_as_with_the_full_reader(tmp_path):
    write(tmp_path, range(20), every=5, missing={3: 2, 5: 0, 9: 11}, bad=frozenset({7, 10}))
    full, bounded = load_record(tmp_path), load_bounded(tmp_path)
    assert plain(full) == plain(bounded)
    assert full.layers == bounded.layers == list(LAYERS)
    assert bounded.scalars[f"{names.GRADIENT_NONFINITE}/{LAYERS[3]}"].values[7] == 7.0
    assert_same_observations(full, bounded)


def test_a_run_that_was_resumed_twice_is_the_same(tmp_path):
    write(tmp_path, range(12), every=4)
    write(tmp_path, range(8, 10), every=1, missing={8: 1}, bad=frozenset({9}))
    write(tmp_path, range(5, 20), every=3, missing={7: 4})
    full, bounded = load_record(tmp_path), load_bounded(tmp_path)
    assert plain(full) == plain(bounded)
    assert_same_observations(full, bounded)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(1, 12), st.integers(1, 4)), min_size=1, max_size=4),
    st.dictionaries(st.integers(0, 24), st.integers(0, 11), max_size=4),
    st.frozensets(st.integers(0, 24), max_size=3),
)
def test_any_short_record_is_the_same(parts, missing, bad):
    with tempfile.TemporaryDirectory() as folder:
        for first, length, every in parts:
            write(Path(folder), range(first, first + length), every=every, missing=missing, bad=bad)
        full, bounded = load_record(folder), load_bounded(folder)
        assert plain(full) == plain(bounded)
        assert_same_observations(full, bounded)


def test_a_torn_tail_is_read_once_it_is_complete(tmp_path):
    path = write(tmp_path, range(9), every=3)
    content = path.read_bytes()
    reader = BoundedReader(tmp_path)
    for end in (0, 5, len(content) // 3, len(content) // 2 + 7, len(content) - 1):
        path.write_bytes(content[:end])
        reader.read()
        assert plain(reader.record()) == plain(load_record(tmp_path)), end
    path.write_bytes(content)
    assert reader.read() > 0
    assert plain(reader.record()) == plain(load_record(tmp_path))
    assert reader.read() == 0


def test_a_damaged_event_ends_the_file(tmp_path):
    path = write(tmp_path, range(9), every=3)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)
    found = load_bounded(tmp_path)
    assert plain(found) == plain(load_record(tmp_path))
    assert 0 < len(found.of_layers(names.GRADIENT_RMS)[LAYERS[0]].steps) < 9


def test_an_earlier_record_is_not_changed_by_reading_on(tmp_path):
    write(tmp_path, range(6), every=2)
    reader = BoundedReader(tmp_path)
    reader.read()
    first = reader.record()
    before = plain(first)
    write(tmp_path, range(6, 12), every=2, bad=frozenset({6}))
    reader.read()
    assert plain(first) == before
    assert plain(reader.record()) == plain(load_record(tmp_path))


def test_no_record_is_an_empty_one(tmp_path):
    assert plain(load_bounded(tmp_path / "missing")) == plain(Record())


def test_a_long_record_keeps_a_bounded_part_of_exact_numbers(tmp_path):
    num_steps, max_rows = 300, 16
    write(tmp_path, range(num_steps), every=1, bad=frozenset({201}))
    full = load_record(tmp_path)
    reader = BoundedReader(tmp_path, max_rows=max_rows, max_bytes=1)
    reader.read()
    record = reader.record()
    for name in (names.TRAIN_LOSS, names.NORM_TOTAL):  # scalars of the run are complete
        assert [*record.scalars[name].values] == full.scalars[name].values
    rms, counts = (names.of_layer(family, LAYERS[3]) for family in (names.GRADIENT_RMS, names.GRADIENT_NONFINITE))
    steps = [int(s) for s in record.scalars[rms].steps]
    assert len(steps) <= max_rows + 2
    assert {0, 201, num_steps - 1} <= set(steps)
    exact = dict(zip(full.scalars[rms].steps, full.scalars[rms].values, strict=True))
    assert [exact[s] for s in steps] == [float(v) for v in record.scalars[rms].values]
    assert max(record.scalars[counts].values) == 7.0
    for found in (record.histograms, record.other_histograms[DELTA]):
        kept = list(found[LAYERS[0]])
        assert MIN_STEPS // 2 <= len(kept) <= MIN_STEPS + 5, kept
        assert {0, 200, 201, num_steps - 1} <= set(kept)
    for layer, step in itertools.product(LAYERS, record.histograms[LAYERS[0]]):
        assert record.histograms[layer][step] == full.histograms[layer][step]
    assert len(record.vectors["time/norm/rnn.l0"]) <= max_rows + 1


@pytest.mark.parametrize("num_steps", [16, 17, 33, 100, 257])
def test_the_doctor_reads_the_rows_that_it_kept_during_the_run(tmp_path, num_steps):
    """As `History` listening to the writer, which has thinned the same rows."""
    history = History(max_rows=16)
    writer = RecordWriter(tmp_path / "tensorboard")
    writer.listeners = [history]
    for step in range(num_steps):
        writer.write_snapshot(snapshot(step, counted=False, others=step % 2 == 0, bad=step == 9))
    writer.close()
    reader = BoundedReader(tmp_path, max_rows=16)
    reader.read()
    live, read = history.observations(), observe(reader.record())
    for field in ("rms", "nonfinite", "units"):
        for key, table in getattr(live, field).items():
            found = getattr(read, field)[key]
            assert found.layers == table.layers
            np.testing.assert_array_equal(found.steps, table.steps)
            np.testing.assert_array_equal(found.values, table.values)
    assert len(live.rms["gradient"].steps) <= 16


def test_a_resumed_history_thins_on_as_if_it_had_never_stopped(tmp_path):
    first, whole = (BoundedReader(tmp_path, max_rows=4096) for _ in range(2))
    write(tmp_path, range(40), every=50)
    first.read()
    resumed = replay(first.record())
    write(tmp_path, range(40, 60), every=50)
    for step in range(40, 60):
        resumed.add_snapshot(snapshot(step, counted=False, others=False))
    whole.read()
    expected = observe(whole.record()).rms["gradient"]
    found = resumed.observations().rms["gradient"]
    np.testing.assert_array_equal(found.steps, expected.steps)
    np.testing.assert_array_equal(found.values, expected.values)


@given(st.integers(2, 9), st.lists(st.tuples(st.integers(1, 5), st.integers(0, 3)), max_size=60))
def test_thinning_keeps_the_rows_of_the_history_and_the_largest_counts(max_rows, gaps):
    table, rows = StepTable(max_rows), Rows(max_rows)
    places = np.append(table.places(["rms"], False), table.places(["bad"], True))
    steps = np.cumsum([gap for gap, _ in gaps]).tolist()
    counts = [count for _, count in gaps]
    for step, count in zip(steps, counts, strict=True):
        row = table.new_row()
        row[places] = step, count
        table.add(step, row)
        rows.add(step, row.copy())
    sampled, values = table.sampled()
    expected_steps, expected = rows.stacked(2)
    assert sampled.tolist() == expected_steps.tolist()
    assert values.tolist() == expected.tolist()
    shown, numbers = table.shown()
    assert len(shown) <= max_rows + 2
    assert shown.tolist() == sorted(set(shown.tolist()))
    if steps:
        assert (shown[0], shown[-1]) == (steps[0], steps[-1])
        assert numbers[:, 1].max() == max(counts)
        assert [int(x) for x in numbers[:, 0]] == shown.tolist()  # exact where it is kept
    bad = [step for step, count in zip(steps, counts, strict=True) if count]
    assert not bad or bad[0] in shown.tolist()
    for step in bad:  # and each count is found no later than it was recorded, before the next row
        at = int(np.searchsorted(shown, step, side="right")) - 1
        assert numbers[at, 1] > 0 or any(numbers[k, 1] > 0 for k in range(at))


def test_rows_whose_numbers_are_missing_now_and_then_are_read_exactly(tmp_path):
    """Each pattern of missing numbers is another row of bytes; more patterns than are remembered."""
    write(tmp_path, range(40), every=1, missing={step: step % 12 for step in range(0, 40, 2)})
    assert plain(load_record(tmp_path)) == plain(load_bounded(tmp_path))
