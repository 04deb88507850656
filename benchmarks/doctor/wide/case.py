"""A case of the wide part: a program, how it is trained, and at most one fault."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field

from benchmarks.doctor.wide.faults import Fault

NUM_SEEDS = 3  # unwatched runs; a label is based on their median
FIRST_SEED = {"tuning": 0, "validation": 100, "reporting": 300}  # no seed is in two parts
PARTS = tuple(FIRST_SEED)


@dataclass(frozen=True)
class Settings:
    """How a program is trained. The defaults are those of its reference.

    Attributes:
        optimizer: `adam`, `adamw`, `sgd` (momentum 0.9), `rmsprop` or `plain_sgd` (no momentum).
        lr_factor: Factor of the program's learning rate for that optimizer.
        schedule: `constant`, `warmup` (over the first 20%), `cosine`, `onecycle` or `steps` (÷3 at 50% and 75%).
        batch_factor: Factor of the program's batch size.
        steps_factor: Factor of the program's number of steps.
        accumulate: Micro-batches per step, each of the whole batch size divided by this.
        clip: Largest norm of the gradient; 0 for no clipping.
        loss_factor: Factor of the loss.
        bf16: Whether the forward pass runs under autocast in bfloat16.
        scaler: Scale of the loss of `torch.amp.GradScaler`; 0 for none.
        frozen: Whether the program's `frozen` modules do not learn.
        weight_decay: Of `adamw` and `sgd`.
    """

    optimizer: str = "adam"
    lr_factor: float = 1.0
    schedule: str = "constant"
    batch_factor: float = 1.0
    steps_factor: float = 1.0
    accumulate: int = 1
    clip: float = 0.0
    loss_factor: float = 1.0
    bf16: bool = False
    scaler: float = 0.0
    frozen: bool = False
    weight_decay: float = 0.0


@dataclass(frozen=True)
class Case:
    """A candidate. Its label follows from outcomes, not from its fault.

    Attributes:
        name: `<task>/<variant>`; `<task>/reference` for the program as it is.
        part: `tuning`, `validation` or `reporting`: all cases of a task are in one part.
        settings: How it is trained.
        fault: What is wrong with it, if anything.
        reference: Name of the case whose outcome this one is compared with.
    """

    name: str
    part: str
    settings: Settings = field(default_factory=Settings)
    fault: Fault | None = None
    reference: str = ""

    @property
    def task(self) -> str:
        """Name of the program."""
        return self.name.partition("/")[0]

    @property
    def is_mistake(self) -> bool:
        """Whether its fault is a mistake in the code."""
        return self.fault is not None and self.fault.is_mistake

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of the unwatched runs."""
        first = FIRST_SEED[self.part]
        return tuple(range(first, first + NUM_SEEDS))

    @property
    def digest(self) -> str:
        """A hash of the task, the settings and the fault."""
        fault = [type(self.fault).__name__, asdict(self.fault)] if self.fault else None
        return hashlib.sha256(json.dumps([self.task, self.part, asdict(self.settings), fault]).encode()).hexdigest()[
            :16
        ]
