"""Tables, JSON lines and `trainer_state.json`: what is read of them, whole or broken off."""

from __future__ import annotations

import json
import math

import pytest

from stabletrain.record.foreign_logs.csv_table import LIGHTNING, read_csv
from stabletrain.record.foreign_logs.detection import read_log
from stabletrain.record.foreign_logs.json_lines import read_json_lines
from stabletrain.record.foreign_logs.trainer_state import read_trainer_state
from stabletrain.vocabulary import metric_names as names

TRAIN_ACCURACY = names.of_stage(names.TRAIN, names.ACCURACY)


def write(path, text):
    path.write_text(text)
    return path


def test_a_table_with_rows_for_training_validation_and_rate(tmp_path):
    """The layout of Lightning's CSVLogger: each call of `log` is a row of its own."""
    text = "epoch,lr-Adam,step,train_loss,val_acc\n,0.1,0,,\n0,,0,2.0,\n,0.1,5,,\n0,,5,nan,\n0,,5,,0.5\n"
    log = read_log(write(tmp_path / "metrics.csv", text))
    assert log.format == LIGHTNING
    assert log.read_as == {names.LR: "lr-Adam", names.TRAIN_LOSS: "train_loss", names.VAL_ACCURACY: "val_acc"}
    assert [*log.losses.steps] == [0, 5]
    assert math.isnan(log.losses.values[1])
    assert [*log.scalars[names.VAL_ACCURACY].values] == [0.5]


def test_epochs_instead_of_steps(tmp_path):
    """The layout of Keras' CSVLogger."""
    log = read_csv(write(tmp_path / "log.csv", "epoch,accuracy,loss\n0,10.0,2.0\n1,90.0,1.0\n"))
    assert (log.unit, log.steps_per_unit) == ("epochs", 100)
    assert [*log.losses.steps] == [0, 100]
    assert [*log.scalars[TRAIN_ACCURACY].values] == [0.1, 0.9]  # was in percent


def test_batches_that_are_counted_anew_in_each_epoch(tmp_path):
    rows = [f"{epoch},{batch},{epoch * 10 + batch}" for epoch in range(6) for batch in range(10)]
    log = read_csv(write(tmp_path / "log.csv", "\n".join(["epoch,batch,loss", *rows])))
    assert log.unit == "rows"
    assert [*log.losses.values] == [*range(60)]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_delimiters_comments_and_a_byte_order_mark(tmp_path, delimiter):
    number = "1,5" if delimiter != "," else "1.5"
    text = "\ufeff# made by hand\nstep,Loss/train\n0,X\n\n1,X\n".replace(",", delimiter).replace("X", number)
    log = read_log(write(tmp_path / "a.csv", text))
    assert [*log.losses.values] == [1.5, 1.5]


def test_a_resumed_table_writes_its_header_again(tmp_path):
    log = read_csv(write(tmp_path / "a.csv", "step,loss\n0,1.0\n1,2.0\nstep,loss\n1,3.0\n2,4.0\n"))
    assert [*log.losses.values] == [1.0, 3.0, 4.0]


def test_an_export_of_weights_and_biases(tmp_path):
    text = '"Step","lively-1 - train/loss","lively-1 - train/loss__MIN","lively-1 - train/loss__MAX"\n0,2.0,1.0,3.0\n'
    assert [*read_csv(write(tmp_path / "a.csv", text)).losses.values] == [2.0]


def test_a_half_written_last_row_is_left_out_and_said(tmp_path):
    log = read_csv(write(tmp_path / "a.csv", "step,loss,lr\n0,1.0,0.1\n1,2.0,0.1\n2,0"))
    assert [*log.losses.steps] == [0, 1]
    assert log.notes == ("Incomplete, or with cells that are no numbers: 1 of 3 rows.",)
    assert read_csv(write(tmp_path / "b.csv", "step,loss,lr\n0,1.0,0.1\n")).notes == ()


LINES = [{"step": 10, "loss": 2.0, "train": {"grad_norm": 1.0}}, {"step": 20, "loss": "NaN", "note": "text"}]


def test_json_lines_with_objects_within_objects(tmp_path):
    text = "".join(json.dumps(x) + "\n" for x in LINES)
    log = read_log(write(tmp_path / "a.jsonl", text))
    assert [*log.losses.steps] == [10, 20]
    assert math.isnan(log.losses.values[1])
    assert log.read_as[names.NORM_TOTAL] == "train/grad_norm"
    assert not log.notes


@pytest.mark.parametrize("spelling", ["NaN", '"nan"', "null", "Infinity", '"-inf"'])
def test_spellings_of_values_that_are_not_finite(tmp_path, spelling):
    text = f'{{"step": 0, "loss": 1.0}}\n{{"step": 1, "loss": {spelling}}}\n'
    values = read_json_lines(write(tmp_path / "a.jsonl", text)).losses.values
    assert [math.isfinite(x) for x in values] == [True, False]


def test_a_half_written_last_line_is_left_out_and_said(tmp_path):
    log = read_log(write(tmp_path / "a.jsonl", '{"step": 0, "loss": 1.0}\n{"step": 1, "lo'))
    assert [*log.losses.steps] == [0]
    assert log.notes == ("Incomplete, or no JSON objects: 1 lines.",)


def make_state(**entries):
    history = [{"epoch": 0.1 * i, "step": 10 * i, "loss": 3.0 - i, "learning_rate": 0.1} for i in range(3)]
    end = {"step": 20, "train_loss": 99.0, "train_runtime": 1.0}
    return {"best_metric": None, "log_history": [*history, end], "logging_steps": 10, "max_steps": 20} | entries


@pytest.mark.parametrize("indent", [None, 2])
def test_the_state_of_a_trainer_without_its_summary(tmp_path, indent):
    log = read_log(write(tmp_path / "trainer_state.json", json.dumps(make_state(), indent=indent)))
    assert [*log.losses.steps] == [0, 10, 20]
    assert [*log.losses.values] == [3.0, 2.0, 1.0]  # not 99, the mean over the whole training
    assert log.info["parameters"] == {"max_steps": 20, "logging_steps": 10}
    assert log.info["training"]["client"] == "huggingface"


def test_a_state_that_breaks_off_is_read_as_far_as_it_goes(tmp_path):
    text = json.dumps(make_state(), indent=2)
    log = read_trainer_state(write(tmp_path / "trainer_state.json", text[: text.index('"loss": 1.0')]))
    assert [*log.losses.steps] == [0, 10]
    assert log.notes == ("The file breaks off.",)


def test_a_history_longer_than_one_chunk(tmp_path):
    history = [{"step": i, "loss": float(i)} for i in range(5000)]
    path = write(tmp_path / "trainer_state.json", json.dumps(make_state(log_history=history), indent=2))
    assert [*read_trainer_state(path).losses.steps] == [*range(5000)]


def test_of_two_columns_of_one_name_the_first_one_counts(tmp_path):
    log = read_csv(write(tmp_path / "a.csv", "step,loss,loss\n0,2.0,7\n1,1.0,8\n"))
    assert [*log.losses.values] == [2.0, 1.0]


def test_tensors_written_as_text_are_numbers(tmp_path):
    text = "step;loss\n0;tensor(2.5)\n1;tensor(1.5, grad_fn=<MeanBackward0>)\n2;tensor(nan)\n"
    values = [*read_csv(write(tmp_path / "a.csv", text)).losses.values]
    assert values[:2] == [2.5, 1.5]
    assert math.isnan(values[2])
