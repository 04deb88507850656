"""TensorBoard's messages. Their classes are made at run time, so type checkers cannot see them: here, and only here."""

# pyright: reportAttributeAccessIssue=false

from typing import Any

from tensorboard.compat.proto import event_pb2, summary_pb2, tensor_pb2, tensor_shape_pb2, types_pb2

Event: Any = event_pb2.Event
HistogramProto: Any = summary_pb2.HistogramProto
Summary: Any = summary_pb2.Summary
SummaryMetadata: Any = summary_pb2.SummaryMetadata
TensorProto: Any = tensor_pb2.TensorProto
TensorShapeProto: Any = tensor_shape_pb2.TensorShapeProto
DT_STRING: int = types_pb2.DT_STRING
DT_FLOAT: int = types_pb2.DT_FLOAT
