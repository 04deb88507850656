"""A recipe: a task and a network that train well together."""

from __future__ import annotations

import math

from benchmarks.doctor.case import Case, Network, Start, Training

ADD = ("layer", "add")  # norms and residual connections, which deep networks need
CLIPPED = {"clip": 1.0, "batch_size": 32}  # which recurrent networks need


def recipe(name: str, task: str, network: Network, start: Start | None = None, **training: float) -> Case:
    """Return a reference that is not assigned to a part yet."""
    name = f"{name}/reference"
    return Case(name, "", task, network, Training(**training), start or Start(), reference=name)  # type: ignore[arg-type]


def keeping(length: int, gain: float = 3.0) -> Start:
    """Return gates that are initially open for about `length` steps (Tallec and Ollivier 2018), and larger weights."""
    return Start(gain=gain, gate_bias=math.log(length))
