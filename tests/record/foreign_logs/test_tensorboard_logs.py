"""Event files of others: by SummaryWriter itself, and in the layouts of Keras and Lightning."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.utils.tensorboard import SummaryWriter

from stabletrain.record.foreign_logs.detection import read_log
from stabletrain.record.protos import DT_FLOAT, Event, Summary, TensorProto, TensorShapeProto
from stabletrain.record.writer import frame
from stabletrain.vocabulary import metric_names as names


def write_events(path, tags, steps):
    """Write scalars as TensorFlow does, as tensors without a dimension."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = b""
    for step in steps:
        for tag, value in tags.items():
            tensor = TensorProto(dtype=DT_FLOAT, tensor_shape=TensorShapeProto())
            if step % 2:
                tensor.float_val.append(value(step))
            else:
                tensor.tensor_content = np.float32(value(step)).tobytes()
            body = Event(step=step, summary=Summary(value=[Summary.Value(tag=tag, tensor=tensor)])).SerializeToString()
            data += b"".join(map(bytes, frame([body])))
    path.write_bytes(data)
    return path


def test_what_a_summary_writer_writes(tmp_path):
    with SummaryWriter(str(tmp_path)) as writer:
        for step in range(5):
            writer.add_scalar("Loss/train", 2.0 if step < 4 else math.nan, step)
            writer.add_scalar("lr", 0.5, step)
            writer.add_histogram("weights", torch.ones(3), step)
    log = read_log(tmp_path)
    assert log.read_as == {names.TRAIN_LOSS: "Loss/train", names.LR: "lr"}
    assert [*log.losses.steps] == [0, 1, 2, 3, 4]
    assert [math.isnan(x) for x in log.losses.values] == [False] * 4 + [True]
    assert log.info["training"]["client"] == "loop"


def test_curves_that_a_summary_writer_puts_into_folders(tmp_path):
    with SummaryWriter(str(tmp_path)) as writer:
        for step in range(3):
            writer.add_scalars("Loss", {"train": 2.0, "val": 3.0}, step)
    log = read_log(tmp_path)
    assert log.read_as == {names.TRAIN_LOSS: "Loss/train", names.VAL_LOSS: "Loss/val"}
    assert log.scalars[names.VAL_LOSS].values[0] == 3.0


def test_the_folders_of_keras_count_epochs(tmp_path):
    tags = {"epoch_loss": lambda step: 2.0 - step / 10, "epoch_accuracy": lambda step: step / 10}
    write_events(tmp_path / "train" / "events.out.tfevents.1700000000.host.1.0.v2", tags, range(4))
    write_events(tmp_path / "validation" / "events.out.tfevents.1700000001.host.1.1.v2", tags, range(4))
    log = read_log(tmp_path)
    assert log.read_as[names.VAL_ACCURACY] == "validation/epoch_accuracy"
    assert log.read_as[names.TRAIN_LOSS] == "train/epoch_loss"
    assert (log.unit, log.steps_per_unit, [*log.losses.steps]) == ("epochs", 100, [0, 100, 200, 300])
    np.testing.assert_allclose(log.losses.values, [2.0, 1.9, 1.8, 1.7], rtol=1e-6)


def test_the_folder_of_lightning_is_recognized(tmp_path):
    write_events(tmp_path / "events.out.tfevents.1700000000.host.1.0", {"train_loss": lambda step: 1.0}, range(3))
    (tmp_path / "hparams.yaml").write_text("{}")
    assert read_log(tmp_path).info["training"]["client"] == "lightning"


@pytest.mark.parametrize("cut", [1, 20, 50])
def test_a_file_that_breaks_off_is_read_as_far_as_it_goes(tmp_path, cut):
    path = write_events(tmp_path / "events.out.tfevents.1700000000.host.1.0", {"loss": lambda step: 1.0}, range(9))
    whole = read_log(path)
    path.write_bytes(path.read_bytes()[:-cut])
    log = read_log(path)
    assert (len(whole.losses.steps), whole.notes) == (9, ())
    assert 7 <= len(log.losses.steps) <= 8
    assert "readable up to byte" in log.notes[0]


def test_the_summary_of_hugging_face_is_no_loss_of_a_step(tmp_path):
    tags = {"train/loss": lambda step: 2.0, "train/train_loss": lambda step: 99.0, "train/epoch": lambda step: 1.0}
    write_events(tmp_path / "events.out.tfevents.1700000000.host.1.0", tags, [9])
    log = read_log(tmp_path)
    assert [*log.losses.values] == [2.0]
    assert log.info["training"]["client"] == "huggingface"
