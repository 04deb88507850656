"""A case with a remedy applied: an override changes fields of the case, or calls the same function of the library."""

from __future__ import annotations

import math
import shlex
from dataclasses import dataclass, field, replace
from typing import Any

import stabletrain as st
from benchmarks.doctor.case import Case, Event, Start
from benchmarks.doctor.models import ACTIVATIONS
from benchmarks.doctor.run import Run
from stabletrain.diagnosis.plan import BROKE_ON
from stabletrain.vocabulary.finding import Finding
from stabletrain.vocabulary.origins import INPUT, MADE_ON, ORIGIN, TARGET, WEIGHT

ADAM_BETA = 0.9
MIN_LR, MAX_LR, NUM_STEPS, MARGIN = 1e-7, 1.0, 100, 0.1  # stabletrain/training/optimization/lr_finder.py
SMOOTHING, GROWN = 0.98, 4.0  # of the loss; by which it ends the search
CLIP = 1.0  # conf/clip/norm.yaml
RECURRENT = ("rnn", "lstm", "gru")
OPEN_FORGET_GATE = Start(gate_bias=1.0)  # of an LSTM that replaces a plain recurrent network
BUILT = {"activation": ("relu", "leaky_relu", "tanh", "gelu", "elu"), "residual": ("add",), "norm": ("layer", "batch")}
DATA_ORIGINS = (INPUT, TARGET)  # of NaN: the advice is to clean the data


@dataclass(frozen=True)
class Treatment:
    """A case after a remedy.

    Attributes:
        case: The case with changed fields.
        init: Name for `st.initialize_`, called before training; "" for the case's own.
        clip: Name for `st.clip_gradients_`, called before each step; "" for the case's own.
        finds_lr: Whether the learning rate is searched for before training.
    """

    case: Case
    init: str = ""
    clip: str = ""
    finds_lr: bool = False
    unknown: tuple[str, ...] = field(default=())

    @property
    def is_applied(self) -> bool:
        """Whether every word of the remedy means something for this network."""
        return not self.unknown

    def make_run(self, seed: int) -> Run:
        """Return the run, ready to train."""
        if not self.finds_lr:
            return TreatedRun(self, seed)
        lr = find_lr(TreatedRun(replace(self, case=replace(self.case, event=None)), seed))
        training = replace(self.case.training, lr=lr or self.case.training.lr)
        return TreatedRun(replace(self, case=replace(self.case, training=training)), seed)


class TreatedRun(Run):
    """A run whose initialization and clipping may come from the library."""

    def __init__(self, treatment: Treatment, seed: int) -> None:
        super().__init__(treatment.case, seed)
        self._clip = treatment.clip
        if treatment.init:
            network, num = treatment.case.network, treatment.case.training.batch_size
            activation = None if network.family in RECURRENT else ACTIVATIONS[network.activation]()
            st.initialize_(self.model, treatment.init, activation=activation, inputs=self.task.x[:num])

    def clip(self) -> None:
        if self._clip:
            st.clip_gradients_(self.parameters, self._clip)
        else:
            super().clip()


def find_lr(run: Run) -> float | None:
    """Return the rate that the finder of stabletrain would suggest (`lr_find=true`); None if no rate lowers the loss.

    The run is spoiled.
    """
    rates, losses, mean = [], [], 0.0
    for step in range(NUM_STEPS):
        rates.append(MIN_LR * (MAX_LR / MIN_LR) ** (step / (NUM_STEPS - 1)))
        run.training = replace(run.training, lr=rates[-1], schedule="constant")
        mean = SMOOTHING * mean + (1 - SMOOTHING) * run.take_step(step, None)
        losses.append(mean / (1 - SMOOTHING ** (step + 1)))
        if not losses[-1] < GROWN * min(losses):
            break
    lowest = min(range(len(losses)), key=lambda i: losses[i] if math.isfinite(losses[i]) else math.inf)
    return MARGIN * rates[lowest] if lowest > 0 else None


def treat(case: Case, override: str, finding: Finding | None = None) -> Treatment:
    """Return the case with a remedy.

    Args:
        case: The case.
        override: One or more overrides.
        finding: The finding that proposes it. If it names a rate before a jump, or data with NaN, following it means
            to undo that event; if it says to go back to a checkpoint, to go on from before the event with a new
            optimizer.
    """
    treatment = Treatment(case)
    for word in shlex.split(override):
        key, _, value = word.partition("=")
        treatment = _apply(treatment, key, value)
    if undoes_event(finding):
        event = Event("restart", case.event.step) if case.event and _goes_back(finding) else None
        treatment = replace(treatment, case=replace(treatment.case, event=event))
    return treatment


def undoes_event(finding: Finding | None) -> bool:
    """Return whether a finding's advice in words is to undo the event: a rate that rose, data with NaN, a break."""
    if finding is None:
        return False
    evidence = finding.evidence
    return "lr_before" in evidence or evidence.get(ORIGIN) in DATA_ORIGINS or _goes_back(finding)


def _goes_back(finding: Finding | None) -> bool:
    """Return whether the advice is to go back to a checkpoint."""
    if finding is None:
        return False
    is_damaged = finding.evidence.get(ORIGIN) == WEIGHT and finding.evidence.get(MADE_ON) is not None
    return BROKE_ON in finding.evidence or is_damaged


def _apply(treatment: Treatment, key: str, value: str) -> Treatment:
    case = treatment.case
    network, training = case.network, case.training

    def with_network(**changes: Any) -> Treatment:
        return replace(treatment, case=replace(case, network=replace(network, **changes)))

    def with_training(**changes: Any) -> Treatment:
        return replace(treatment, case=replace(case, training=replace(training, **changes)))

    if key == "optimizer.lr":
        return with_training(lr=float(value))
    if key == "optimizer" and value == "adam":
        return with_training(optimizer="adam", momentum=ADAM_BETA)
    if key == "lr_find":
        return replace(treatment, finds_lr=True)
    if key == "schedule" and value == "warmup_cosine":
        return with_training(schedule="warmup_cosine")
    if key == "clip.max_norm":
        return with_training(clip=float(value))
    if key == "clip":
        return with_training(clip=CLIP) if value == "norm" else replace(treatment, clip=value)
    if key == "init":
        return replace(treatment, init=value)
    if key == "model" and value == "lstm":
        lstm = replace(case, network=replace(network, family="lstm", activation="tanh"), start=OPEN_FORGET_GATE)
        return replace(treatment, case=lstm)
    if value in BUILT.get(key, ()) and network.family not in RECURRENT:
        return with_network(**{key: value})
    return replace(treatment, unknown=(*treatment.unknown, f"{key}={value}"))
