"""What a run's numbers become: beside a slow reference, for a run that went back, late layers, little memory."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stabletrain.diagnosis.history import ROUNDED_TOGETHER, History, Rows, load, save, total_norm
from stabletrain.diagnosis.observations import Table
from stabletrain.diagnosis.rules.depth import depth_decades
from stabletrain.diagnosis.weight_tables import row_medians
from stabletrain.signal.snapshot import LayerStatistics, Snapshot
from stabletrain.vocabulary.notice import Notice

VALUES = st.floats(0, 1e300) | st.just(math.nan)
LAYERS = ("L0.a", "L1.b", "L2.c")
LOOKS = st.lists(
    st.tuples(st.integers(0, 200), st.dictionaries(st.sampled_from(LAYERS), VALUES, min_size=1)), max_size=150
)


@settings(max_examples=50)
@given(LOOKS)
def test_a_table_is_that_of_a_slow_reference(looks):
    history, known, expected = History(), (), {}
    for step, row in looks:
        history.add("rms", "gradient", step, tuple(row), np.array(list(row.values())))
        expected = {s: r for s, r in expected.items() if s < step} | {step: row}
        known = tuple(row) if not known or tuple(row) == known else tuple(sorted({*known, *row}))
    if not looks:
        return
    table = history.observations().rms["gradient"]
    assert table.layers == known
    assert table.steps.tolist() == sorted(expected)
    for step, values in zip(table.steps.tolist(), table.values, strict=True):
        for layer, value in zip(table.layers, values, strict=True):
            with np.errstate(over="ignore"):
                np.testing.assert_equal(value, np.float64(np.float32(expected[step].get(layer, math.nan))))


def test_rows_are_rounded_before_and_after_the_run_went_back():
    rows = Rows()
    for step in range(ROUNDED_TOGETHER):
        rows.add(step, np.array([0.1]))
    for step in range(ROUNDED_TOGETHER // 2, 3 * ROUNDED_TOGETHER):
        rows.add(step, np.array([0.3]))
    assert {row.dtype for row in rows.rows} == {np.dtype(np.float32)}
    steps, values = rows.stacked(1)
    assert steps.tolist() == list(range(3 * ROUNDED_TOGETHER))
    assert values[:, 0].tolist() == [
        float(np.float32(0.1 if step < ROUNDED_TOGETHER // 2 else 0.3)) for step in range(3 * ROUNDED_TOGETHER)
    ]


@pytest.mark.parametrize(("num_steps", "stride"), [(8, 1), (9, 2), (20, 4), (100, 16)])
def test_memory_is_bounded(num_steps, stride):
    rows = Rows(max_rows=8)
    for step in range(num_steps):
        rows.add(step, np.array([float(step)]))
    steps, values = rows.stacked(1)
    assert steps.tolist() == values[:, 0].tolist() == list(range(0, num_steps, stride))


def test_rows_that_were_left_out_are_not_held_in_memory():
    rows = Rows(max_rows=128)
    for step in range(10_000):
        rows.add(step, np.zeros(100))
    held = {id(row.base): row.base for row in rows.rows if row.base is not None}
    assert len(rows.rows) <= 128
    assert sum(base.nbytes for base in held.values()) <= 2 * 128 * 100 * 4


def test_a_row_that_was_kept_is_not_touched():
    row = np.array([1e300, 0.1])
    history = History()
    history.add("rms", "gradient", 0, ("L0.a", "L1.b"), row)
    assert history.observations().rms["gradient"].values.tolist() == [[math.inf, float(np.float32(0.1))]]
    assert row.tolist() == [1e300, 0.1]


def layers_of(*rms: float | None, size: int = 4, num_nonfinite: int = 0) -> list[LayerStatistics]:
    return [LayerStatistics(f"L{i}.w", size, x, num_nonfinite) for i, x in enumerate(rms)]


@given(st.lists(st.floats(0, 1e150) | st.none(), min_size=1, max_size=20))
def test_the_total_norm_is_that_of_a_slow_reference(rms):
    expected = math.hypot(*(2 * (x or 0.0) for x in rms))  # the root of four elements
    assert total_norm(layers_of(*rms)) == pytest.approx(expected, rel=1e-12, abs=0)


@pytest.mark.parametrize(
    ("layers", "norm"),
    [
        ([], None),
        (layers_of(1.0, num_nonfinite=1), None),
        (layers_of(None, None), 0.0),  # layers without elements
        (layers_of(0.0, 0.0), 0.0),
        (layers_of(1e-200, 0.0), 2e-200),  # its square is below float64
        (layers_of(1e200, None), 2e200),
        (layers_of(math.inf), None),
        (layers_of(1.7e308), None),
    ],
)
def test_total_norms_of_corners(layers, norm):
    assert total_norm(layers) == (norm if norm is None else pytest.approx(norm, rel=1e-12, abs=0))


@given(st.lists(st.lists(VALUES, min_size=5, max_size=5), min_size=1, max_size=6))
def test_many_rows_at_once_are_as_one_by_one(rows):
    values = np.array(rows)
    one_by_one = [depth_decades(values[i : i + 1])[0] for i in range(len(values))]
    np.testing.assert_array_equal(depth_decades(values), one_by_one)
    present = [[x for x in row if not math.isnan(x)] for row in rows]
    medians = row_medians(Table(np.arange(len(rows)), tuple("abcde"), values))
    np.testing.assert_array_equal(medians, [np.median(row) if row else math.nan for row in present])


def test_what_is_saved_comes_back_in_its_order(tmp_path):
    history = History()
    for layer in ("rnn.l1", "rnn.l0"):
        history.add_time(0, layer, np.array([1.0, 2.0]))
    history.add_snapshot(Snapshot(0, layers_of(0.5), {"weight": layers_of(1.5), "update": layers_of(0.25)}))
    history.add_scalars(3, {"train/loss": 2.0, "a/b": math.nan})
    observations = history.observations()
    save(observations, tmp_path / "kept.npz")
    found = load(tmp_path / "kept.npz")
    assert [*found.time] == ["rnn.l1", "rnn.l0"]
    assert [*found.rms] == ["gradient", "weight", "update"] == [*observations.rms]
    assert found.scalars["train/loss"].values.tolist() == [2.0]
    assert found.scalars["a/nonfinite"].values.tolist() == [1.0]
    assert found.rms["update"].values.tolist() == [[0.25]]


def test_a_notice_survives_saving_and_is_known_from_its_first_step_on(tmp_path):
    history = History()
    history.add_notice(Notice("nonfinite", 7, 7, "L00.weight", {"count": 3}))
    history.add_notice(Notice("nonfinite", 9, 9, "L00.weight", {"count": 4}))
    save(history.observations(), tmp_path / "run.npz")
    observations = load(tmp_path / "run.npz")
    assert observations.notices == (Notice("nonfinite", 7, 9, "L00.weight", {"count": 3}),)
    assert observations.until(6).notices == ()
    assert observations.until(8).notices == (Notice("nonfinite", 7, 8, "L00.weight", {"count": 3}),)
