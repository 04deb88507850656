"""Faults that are no mistakes in the code: initialization, activations, learning rates, events."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import nn

from benchmarks.doctor.wide.faults import Fault, matrices
from benchmarks.doctor.wide.mistakes import STUCK, UNSTABLE
from benchmarks.doctor.wide.program import Batch, Program

if TYPE_CHECKING:
    from benchmarks.doctor.wide.run import Run

ACTIVATIONS = (nn.ReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.LeakyReLU, nn.ELU)


@dataclass(frozen=True)
class ScaledWeights(Fault):
    """All weights are so much larger or smaller at the beginning; zero for all equal to 0.01."""

    exact: ClassVar[tuple[str, ...]] = ("bad_init", "vanishing", "exploding", "saturation", "dead_units")
    also: ClassVar[tuple[str, ...]] = (*UNSTABLE, *STUCK, "time_vanishing", "time_exploding")
    gain: float

    @torch.no_grad()
    def prepare(self, program: Program) -> None:
        for weight in matrices(program):
            weight.mul_(self.gain) if self.gain else weight.fill_(0.01)


@dataclass(frozen=True)
class SigmoidUnits(Fault):
    """Sigmoids take the place of all activations, with smaller weights."""

    exact: ClassVar[tuple[str, ...]] = ("vanishing", "saturation", "bad_init")
    also: ClassVar[tuple[str, ...]] = STUCK
    gain: float

    @torch.no_grad()
    def prepare(self, program: Program) -> None:
        for module in list(program.model.modules()):
            for name, child in module.named_children():
                if isinstance(child, ACTIVATIONS):
                    setattr(module, name, nn.Sigmoid())
        for weight in matrices(program):
            weight.mul_(self.gain)


@dataclass(frozen=True)
class DeadUnits(Fault):
    """ReLUs with biases so low that no input activates them."""

    exact: ClassVar[tuple[str, ...]] = ("dead_units", "bad_init")
    also: ClassVar[tuple[str, ...]] = ("no_progress", "vanishing")
    bias: float

    @torch.no_grad()
    def prepare(self, program: Program) -> None:
        for module in list(program.model.modules()):
            children = dict(module.named_children())
            for name, child in children.items():
                if isinstance(child, ACTIVATIONS):
                    setattr(module, name, nn.ReLU())
        head = program.head
        for path, module in program.model.named_modules():
            if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d)) and module.bias is not None and path != head:
                module.bias.fill_(self.bias)


@dataclass(frozen=True)
class RateTooHigh(Fault):
    """The learning rate is so many times too high."""

    exact: ClassVar[tuple[str, ...]] = ("lr_too_high",)
    also: ClassVar[tuple[str, ...]] = (*UNSTABLE, "dead_units", "saturation")
    factor: float

    def lr_factor(self, run: Run) -> float:
        return self.factor


@dataclass(frozen=True)
class RateTooLow(Fault):
    """The learning rate is so many times too low."""

    exact: ClassVar[tuple[str, ...]] = ("lr_too_low",)
    also: ClassVar[tuple[str, ...]] = ("no_progress",)
    factor: float

    def lr_factor(self, run: Run) -> float:
        return 1.0 / self.factor


@dataclass(frozen=True)
class TinyBatches(Fault):
    """Batches of two examples at a learning rate many times too high."""

    exact: ClassVar[tuple[str, ...]] = ("oscillation", "lr_too_high")
    also: ClassVar[tuple[str, ...]] = (*UNSTABLE, "dead_units", "saturation")
    factor: float

    @classmethod
    def applies(cls, program: type[Program]) -> bool:
        return program.has_targets and not program.has_batch_norm

    def lr_factor(self, run: Run) -> float:
        return self.factor

    def batch(self, batch: Batch, run: Run) -> Batch:
        return tuple(x[:2] for x in batch)


@dataclass(frozen=True)
class NanInBatch(Fault):
    """One example has a NaN on one step."""

    exact: ClassVar[tuple[str, ...]] = ("nonfinite",)
    at: float

    @classmethod
    def applies(cls, program: type[Program]) -> bool:
        return program.has_float_inputs

    def batch(self, batch: Batch, run: Run) -> Batch:
        if run.step != round(self.at * run.num_steps):
            return batch
        x = batch[0].clone()
        x[0] = math.nan
        return x, *batch[1:]


@dataclass(frozen=True)
class NanInWeight(Fault):
    """One weight is NaN from some step on, as after a flipped bit."""

    exact: ClassVar[tuple[str, ...]] = ("nonfinite",)
    at: float

    @torch.no_grad()
    def after_step(self, run: Run) -> None:
        if run.step == round(self.at * run.num_steps):
            matrices(run.program)[0].view(-1)[0] = math.nan


@dataclass(frozen=True)
class WeightsBlownUp(Fault):
    """All weights are multiplied at one step, as by a corrupted state or an update of the wrong scale."""

    exact: ClassVar[tuple[str, ...]] = ("loss_spike", "exploding", "lr_too_high")
    also: ClassVar[tuple[str, ...]] = ("nonfinite", "dead_units", "saturation", "oscillation")
    factor: float
    at: float

    @torch.no_grad()
    def after_step(self, run: Run) -> None:
        if run.step == round(self.at * run.num_steps):
            for weight in matrices(run.program):
                weight.mul_(self.factor)


@dataclass(frozen=True)
class PoisonedBatch(Fault):
    """The inputs of one batch are so many times too large."""

    exact: ClassVar[tuple[str, ...]] = ("loss_spike", "input_scale", "exploding", "lr_too_high")
    also: ClassVar[tuple[str, ...]] = ("nonfinite", "dead_units", "saturation", "oscillation")
    factor: float
    at: float

    @classmethod
    def applies(cls, program: type[Program]) -> bool:
        return program.has_float_inputs

    def batch(self, batch: Batch, run: Run) -> Batch:
        if run.step != round(self.at * run.num_steps):
            return batch
        return batch[0] * self.factor, *batch[1:]
