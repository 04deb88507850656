"""Reads TensorBoard event files of others: SummaryWriter, Keras, Lightning's TensorBoardLogger, Hugging Face."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from stabletrain.record.foreign_logs.cells import is_clock
from stabletrain.record.foreign_logs.columns import EPOCHS, Columns, Place
from stabletrain.record.foreign_logs.csv_table import LIGHTNING
from stabletrain.record.foreign_logs.log import ForeignLog, make_log
from stabletrain.record.foreign_logs.trainer_state import TRAINER_STATE
from stabletrain.record.protos import Event
from stabletrain.record.reader import read_bodies
from stabletrain.vocabulary.log_format import LogFormat
from stabletrain.vocabulary.usual_names import OF_HUGGING_FACE, SUMMARY_TAG

TENSORBOARD = LogFormat("TensorBoard event files")
LIGHTNING_EVENTS = replace(LIGHTNING, name="TensorBoard event files of Lightning")
HUGGING_FACE_EVENTS = replace(TRAINER_STATE, name="TensorBoard event files of Hugging Face's Trainer")
OF_LIGHTNING = "hparams.yaml"  # a file that its loggers write beside the events
DTYPES = {1: "<f4", 2: "<f8", 3: "<i4", 9: "<i8"}  # of TensorFlow's types.proto
FIELDS = {1: "float_val", 2: "double_val", 3: "int_val", 9: "int64_val"}
OF_EPOCHS = "epoch_"  # Keras counts epochs under these names


def read_events(files: Sequence[tuple[str, Path]], path: Path, loss: str | None = None) -> ForeignLog:
    """Return the scalars of event files.

    Args:
        files: What to put before each tag, such as `validation/`, and the file, in the order in which they were begun.
        path: What the user named.
        loss: Tag of the training's loss; None to recognize it by its name.
    """
    columns, clocks, notes = Columns(loss), set(), []
    row = 0
    for prefix, file in files:
        end = 0
        for body, end in read_bodies(file, 0):  # noqa: B007 (used after the loop)
            for tag, step, value in scalars_of(body):
                name = renamed(prefix, tag)
                if is_clock(tag):
                    clocks.add(tag)
                elif tag != SUMMARY_TAG or loss == tag:
                    columns.add(name, Place(row, float(step)), value)
                row += 1
        if end < file.stat().st_size:
            notes.append(f"{file.name} is readable up to byte {end:,} of {file.stat().st_size:,}.")
    columns.num_rows = row
    columns.close(1)
    leading = columns.choose()
    tags = [name.rpartition("/")[2] for name in leading.values()]
    axis = EPOCHS if tags and all(tag.startswith(OF_EPOCHS) for tag in tags) else None
    if axis:
        for column in columns.found.values():
            column.epochs = column.steps
    return make_log(path, _format_of(files, clocks), columns, axis, notes=notes)


def _format_of(files: Sequence[tuple[str, Path]], clocks: set[str]) -> LogFormat:
    """Return whose event files they are, by a file beside them or by the tags that count steps."""
    if any((file.parent / OF_LIGHTNING).is_file() for _, file in files):
        return LIGHTNING_EVENTS
    return HUGGING_FACE_EVENTS if clocks & OF_HUGGING_FACE else TENSORBOARD


def renamed(prefix: str, tag: str) -> str:
    """Return the name of a tag in a folder: `validation/epoch_loss`, or `Loss/val` in SummaryWriter's `Loss_val`."""
    joined = tag.replace("/", "_") + "_"
    return f"{tag}/{prefix[len(joined) : -1]}" if prefix.startswith(joined) else prefix + tag


def scalars_of(body: bytes) -> Iterator[tuple[str, int, float]]:
    """Yield the tag, step and number of each scalar of an event."""
    try:
        event = Event.FromString(body)
    except DecodeError:
        return
    for value in event.summary.value:
        kind = value.WhichOneof("value")
        if kind == "simple_value":
            yield value.tag, event.step, value.simple_value
        elif kind == "tensor" and (number := _number_of(value.tensor)) is not None:
            yield value.tag, event.step, number


def _number_of(tensor: Any) -> float | None:
    """Return the only element of a tensor; None for any other."""
    if tensor.dtype not in DTYPES or any(dim.size != 1 for dim in tensor.tensor_shape.dim):
        return None
    if tensor.tensor_content:
        try:
            return float(np.frombuffer(tensor.tensor_content, DTYPES[tensor.dtype])[0])
        except (ValueError, IndexError):
            return None
    values = getattr(tensor, FIELDS[tensor.dtype])
    return float(values[0]) if len(values) else 0.0  # a default value is not written
