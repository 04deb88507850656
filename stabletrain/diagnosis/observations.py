"""What the rules look at: the numbers of a run, in the order of its steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from stabletrain.signal.snapshot import Snapshot


@dataclass(frozen=True)
class Observations:
    """The numbers of a run or of a part of it.

    Attributes:
        snapshots: Per-layer statistics, steps rising.
        norms: Total gradient norm before clipping, by step.
        choices: Chosen option by configuration group, empty if the model is not composed by stabletrain.
        learning_rate: The optimizer's learning rate, if known.
    """

    snapshots: tuple[Snapshot, ...] = ()
    norms: Mapping[int, float] = field(default_factory=dict)
    choices: Mapping[str, str] = field(default_factory=dict)
    learning_rate: float | None = None
