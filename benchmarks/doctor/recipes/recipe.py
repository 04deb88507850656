"""What a recipe is: a task and a network that train well together."""

from __future__ import annotations

import math

from benchmarks.doctor.case import Case, Network, Start, Training

ADD = ("layer", "add")  # norm and residual connections that hold deep networks together
CLIPPED = {"clip": 1.0, "batch_size": 32}  # how recurrent networks learn


def recipe(name: str, task: str, network: Network, start: Start | None = None, **training: float) -> Case:
    """Return a reference, of no part yet."""
    name = f"{name}/reference"
    return Case(name, "", task, network, Training(**training), start or Start(), reference=name)  # type: ignore[arg-type]


def keeping(length: int, gain: float = 3.0) -> Start:
    """Gates that begin open for about `length` steps (Tallec and Ollivier 2018); one-hot inputs want large weights."""
    return Start(gain=gain, gate_bias=math.log(length))
