"""A case of the benchmark: everything that determines a run except its seed, as plain numbers."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field

NUM_SEEDS = 5  # unwatched runs; a label is based on their median
FIRST_SEED = {"tuning": 0, "validation": 100, "second_validation": 200, "reporting": 300}  # no seed is in two parts
SALT = {"tuning": "tuning", "validation": "reporting", "second_validation": "held out", "reporting": "reported on"}
PARTS = tuple(FIRST_SEED)


@dataclass(frozen=True)
class Network:
    """The architecture.

    Attributes:
        family: `mlp`, `cnn`, `rnn`, `lstm`, `gru` or `transformer`.
        depth: Number of hidden layers; in recurrent networks, of stacked layers.
        width: Units or channels per layer.
        activation: `relu`, `tanh`, `sigmoid`, `gelu` or `elu`; of `rnn`: `tanh` or `relu`.
        norm: `none`, `layer` or `batch`.
        residual: `none`, `add`, or `zero`: the weights of the branch are initialized to zero.
        dropout: Fraction of the units that are dropped.
    """

    family: str
    depth: int
    width: int
    activation: str = "relu"
    norm: str = "none"
    residual: str = "none"
    dropout: float = 0.0


@dataclass(frozen=True)
class Start:
    """The initialization.

    Attributes:
        gain: Standard deviation of the weights relative to a healthy initialization.
        recurrent_gain: Singular values of the orthogonal recurrent weights.
        gate_bias: Bias of the gate that keeps the state (forget gate, update gate); the input gate of an LSTM is set to
            minus half of it.
        bias: Bias of the hidden layers.
        at: The hidden layer that `gain` and `bias` apply to; None for all.
        scheme: `scaled` (normal, by fan-in and activation), `constant` or `zero`.
        frozen: Number of first hidden layers that do not learn.
    """

    gain: float = 1.0
    recurrent_gain: float = 1.0
    gate_bias: float = 0.0
    bias: float = 0.0
    at: int | None = None
    scheme: str = "scaled"
    frozen: int = 0


@dataclass(frozen=True)
class Training:
    """The training.

    Attributes:
        optimizer: `sgd`, `adam` or `rmsprop`.
        lr: Learning rate.
        momentum: The momentum of `sgd`, or the first beta of `adam`.
        batch_size: Examples in a batch.
        num_steps: The training budget.
        schedule: `constant`, `warmup` (over the first 30%) or `cosine`.
        clip: Largest norm of the gradient; 0 for no clipping.
        loss_factor: Factor of the mean loss: the batch size for a sum.
        input_factor: Factor of the standardized inputs.
    """

    optimizer: str = "adam"
    lr: float = 3e-3
    momentum: float = 0.9
    batch_size: int = 64
    num_steps: int = 300
    schedule: str = "constant"
    clip: float = 0.0
    loss_factor: float = 1.0
    input_factor: float = 1.0


@dataclass(frozen=True)
class Event:
    """A single event at one step.

    Attributes:
        kind: `poison` (inputs times `size`, shifted labels), `nan_batch`, `lr_jump` (times `size` from there on),
            `momentum` (first moment times `size`), `moments` (second moment divided by `size`), `nan_state`,
            `outlier` (inputs times `size`), `skip` (infinite gradients, and no step is taken) or `restart` (a new
            optimizer).
        step: The step on which it happens.
        size: Its magnitude.
    """

    kind: str
    step: int
    size: float = 1.0


@dataclass(frozen=True)
class Expected:
    """What a doctor should report if the case is buggy.

    Attributes:
        kinds: Kinds that name the fault; any of them is correct.
        paths: Modules at fault; empty if the fault is not in a module.
    """

    kinds: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()


@dataclass(frozen=True)
class Case:
    """A candidate. `family` is what it was built for, not its label: labels follow from outcomes.

    Attributes:
        name: `<recipe>/<family>-<number>`; `<recipe>/reference` for the recipe itself.
        part: `tuning`, `validation`, `second_validation` or `reporting`: all cases of a recipe are in one part.
        task: `circles`, `moons`, `blobs`, `digits`, or with a length `pixels-64`, `adding-20`, `copy-50`, `text-32`.
        family: Fault family, `plain`, or a kind of hard healthy run.
        reference: Name of the case whose outcome this one is compared with.
    """

    name: str
    part: str
    task: str
    network: Network
    training: Training
    start: Start = field(default_factory=Start)
    event: Event | None = None
    family: str = "plain"
    expected: Expected = field(default_factory=Expected)
    reference: str = ""

    @property
    def recipe(self) -> str:
        """The task and the architecture."""
        return self.name.partition("/")[0]

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of the unwatched runs."""
        first = FIRST_SEED[self.part]
        return tuple(range(first, first + NUM_SEEDS))

    @property
    def digest(self) -> str:
        """A hash of everything that determines the run."""
        parts = [self.task, SALT[self.part], *(asdict(x) for x in (self.network, self.training, self.start))]
        event = asdict(self.event) if self.event else None
        return hashlib.sha256(json.dumps([*parts, event]).encode()).hexdigest()[:16]
