"""Train deep and recurrent networks that stay stable, and see where the gradient goes.

Names load where they are first used: importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from stabletrain import _moved
from stabletrain.version import __version__ as __version__

if TYPE_CHECKING:
    from stabletrain.errors import RequestError as RequestError
    from stabletrain.gradient import clip_gradients_ as clip_gradients_
    from stabletrain.integrations.plain_loop import Doctor as Doctor
    from stabletrain.network import initialize_ as initialize_
    from stabletrain.network import replace_activations_ as replace_activations_
    from stabletrain.network import replace_norms_ as replace_norms_
    from stabletrain.record.writer import RecordWriter as RecordWriter
    from stabletrain.signal.histogram import Histogram as Histogram
    from stabletrain.signal.offender import Offender as Offender
    from stabletrain.signal.offender import find_offender as find_offender
    from stabletrain.signal.snapshot import LayerStatistics as LayerStatistics
    from stabletrain.signal.snapshot import Snapshot as Snapshot
    from stabletrain.signal.through_time import gradient_through_time as gradient_through_time
    from stabletrain.signal.watch import Watch as Watch
    from stabletrain.training import callbacks as callbacks
    from stabletrain.vocabulary.finding import Finding as Finding

_HOMES = {
    "Doctor": "integrations.plain_loop",
    "Finding": "vocabulary.finding",
    "Histogram": "signal.histogram",
    "LayerStatistics": "signal.snapshot",
    "Offender": "signal.offender",
    "RecordWriter": "record.writer",
    "RequestError": "errors",
    "Snapshot": "signal.snapshot",
    "Watch": "signal.watch",
    "clip_gradients_": "gradient",
    "find_offender": "signal.offender",
    "gradient_through_time": "signal.through_time",
    "initialize_": "network",
    "replace_activations_": "network",
    "replace_norms_": "network",
}


_moved.install()


def __getattr__(name: str) -> Any:
    if name == "callbacks":
        return importlib.import_module("stabletrain.training.callbacks")
    if name in _HOMES:
        return getattr(importlib.import_module(f"stabletrain.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'stabletrain' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*_HOMES, "callbacks", "__version__"])
