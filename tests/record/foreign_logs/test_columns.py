"""Columns of a log: bounded, in order, and with the values that are not finite."""

from __future__ import annotations

import math

import pytest

from stabletrain.record.foreign_logs.cells import number_of
from stabletrain.record.foreign_logs.columns import EPOCHS, ROWS, STEPS, Column, Columns, Place
from stabletrain.vocabulary import metric_names as names


def column(steps, values=None, epochs=None, **settings):
    found = Column(**settings)
    for row, step in enumerate(steps):
        epoch = math.nan if epochs is None else epochs[row]
        found.add(Place(row, step, epoch), float(row if values is None else values[row]))
    return found


def test_a_long_column_keeps_its_course_and_every_nan():
    values = [1.0] * 10_000
    values[5001] = math.nan
    found = column(range(10_000), values, max_points=100)
    series = found.on(STEPS)
    assert len(series.steps) <= 101
    assert [step for step, value in zip(series.steps, series.values, strict=True) if math.isnan(value)] == [5001]
    assert max(series.steps[i + 1] - series.steps[i] for i in range(len(series.steps) - 1)) <= 256


def test_nothing_but_nan_is_bounded_too():
    found = column(range(10_000), [math.nan] * 10_000, max_points=100)
    assert found.on(STEPS).steps[0] == 0
    assert len(found) <= 101


def test_after_a_resume_the_later_numbers_count():
    series = column([0, 1, 2, 3, 2, 3, 4], [0, 1, 2, 3, 20, 30, 40]).on(STEPS)
    assert [*series.steps] == [0, 1, 2, 3, 4]
    assert [*series.values] == [0, 1, 20, 30, 40]


@pytest.mark.parametrize(
    ("steps", "epochs", "axis"),
    [
        ([0, 10, 20], None, STEPS),
        ([math.nan] * 3, [1, 2, 3], EPOCHS),
        ([math.nan] * 3, [0.1, 0.2, 0.3], ROWS),  # fractions
        ([math.nan] * 4, [1, 1, 2, 2], ROWS),  # several rows for each epoch
        ([0, 1, 0, 1, 0, 1, 0, 1, 0, 1], [0, 0, 1, 1, 2, 2, 3, 3, 4, 4], ROWS),  # batches, counted anew in each epoch
        ([0, 1, 2, 1, 2, 3], None, STEPS),  # resumed
    ],
)
def test_the_axis_is_what_orders_the_numbers(steps, epochs, axis):
    assert column(steps, epochs=epochs).axis() == axis


def rows(columns, cells):
    for row, found in enumerate(cells):
        columns.add_row(found, Place(row, float(row)))
    columns.close(1)
    return [math.isnan(x) for x in columns.found["loss"].values]


def test_a_number_that_is_missing_to_the_end_is_nan():
    cells = [{"loss": 1.0, "lr": 0.1}, {"loss": 2.0, "lr": 0.1}, {"loss": None, "lr": 0.1}, {"loss": None, "lr": 0.1}]
    assert rows(Columns(), cells) == [False, False, True, True]


@pytest.mark.parametrize(
    "last",
    [
        {"loss": None, "val_loss": 1.0},  # a row of another kind
        {"val_loss": 1.0},
        {"loss": 3.0},  # the number comes again
    ],
)
def test_a_number_that_belongs_to_no_such_row_is_not(last):
    assert not any(rows(Columns(), [{"loss": 1.0, "val_loss": None}, {"loss": 2.0}, last]))


def test_of_several_names_the_one_with_most_points_is_read():
    columns = Columns()
    for row in range(6):
        columns.add_row({"train_loss_step": 1.0} | ({"train_loss_epoch": 2.0} if row % 3 == 2 else {}), Place(row))
    assert columns.choose() == {names.TRAIN_LOSS: "train_loss_step"}
    assert Columns("train_loss_epoch").meaning("train_loss_step") is None


def test_a_number_beyond_float32_is_infinite():
    columns = Columns()
    columns.add("loss", Place(0), 1e39)
    assert columns.found["loss"].values[0] == math.inf


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        ("1.5", 1.5),
        (" 2e-3 ", 2e-3),
        ("", None),
        ("None", None),
        (None, None),
        (3, 3.0),
        ("inf", math.inf),
        (True, 1.0),
    ],
)
def test_numbers(cell, value):
    assert number_of(cell) == value


@pytest.mark.parametrize("cell", ["nan", "NaN", "NAN", math.nan])
def test_nan_in_any_spelling(cell):
    assert math.isnan(number_of(cell))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("cell", ["abc", [1], "1,5"])
def test_what_is_no_number(cell):
    with pytest.raises(ValueError, match="no number"):
        number_of(cell)
