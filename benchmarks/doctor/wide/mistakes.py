"""Mistakes in the code, as users make them."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import nn
from torch.optim import Optimizer

from benchmarks.doctor.wide.faults import Mistake, detach_output, module_at, replace_module
from benchmarks.doctor.wide.program import Batch, Program, Supervised

if TYPE_CHECKING:
    from benchmarks.doctor.wide.run import Run

STUCK = ("no_progress", "lr_too_low")
UNSTABLE = ("lr_too_high", "exploding", "oscillation", "loss_spike", "nonfinite")


@dataclass(frozen=True)
class MissingZeroGrad(Mistake):
    """`zero_grad` is never called."""

    exact: ClassVar[tuple[str, ...]] = ("gradients_accumulate",)

    def before_backward(self, optimizer: Optimizer) -> None:
        pass


@dataclass(frozen=True)
class ZeroGradBeforeStep(Mistake):
    """`zero_grad` is called between `backward` and `step`: no gradient reaches the optimizer."""

    exact: ClassVar[tuple[str, ...]] = ("gradients_accumulate", "not_optimized")

    def after_backward(self, optimizer: Optimizer) -> None:
        optimizer.zero_grad()


@dataclass(frozen=True)
class OtherOptimizer(Mistake):
    """The optimizer has the parameters of a copy of the network."""

    exact: ClassVar[tuple[str, ...]] = ("not_optimized",)

    def parameters(self, program: Program, network: nn.Module) -> list[nn.Parameter]:
        return [p for p in copy.deepcopy(network).parameters() if p.requires_grad]


@dataclass(frozen=True)
class LackingPart(Mistake):
    """The optimizer lacks the parameters of a module."""

    exact: ClassVar[tuple[str, ...]] = ("not_optimized",)
    part: int

    @classmethod
    def applies(cls, program: type[Program]) -> bool:
        return bool(program.parts)

    def parameters(self, program: Program, network: nn.Module) -> list[nn.Parameter]:
        lacking = {id(p) for p in module_at(program, program.parts[self.part % len(program.parts)]).parameters()}
        return [p for p in network.parameters() if p.requires_grad and id(p) not in lacking]


@dataclass(frozen=True)
class DetachedPart(Mistake):
    """The output of a module is detached, as by `.detach()`, `.data` or `torch.no_grad()`."""

    exact: ClassVar[tuple[str, ...]] = ("no_gradient",)
    part: int

    @classmethod
    def applies(cls, program: type[Program]) -> bool:
        return any(part != program.head for part in program.parts)

    def prepare(self, program: Program) -> None:
        parts = [part for part in program.parts if part != program.head]
        module_at(program, parts[self.part % len(parts)]).register_forward_hook(detach_output)


@dataclass(frozen=True)
class FrozenPart(Mistake):
    """A module that was initialized anew has `requires_grad=False`."""

    exact: ClassVar[tuple[str, ...]] = ("no_gradient", "not_optimized")
    part: int

    @classmethod
    def applies(cls, program: type[Program]) -> bool:
        return bool(program.parts)

    def prepare(self, program: Program) -> None:
        module_at(program, program.parts[self.part % len(program.parts)]).requires_grad_(False)


@dataclass(frozen=True)
class ConstantInput(Mistake):
    """The loss does not depend on the inputs: the same ones are seen every time."""

    exact: ClassVar[tuple[str, ...]] = ("no_gradient", "input_scale")
    also: ClassVar[tuple[str, ...]] = STUCK

    @classmethod
    def applies(cls, program: type[Program]) -> bool:
        return program.has_float_inputs and program.has_targets

    def batch(self, batch: Batch, run: Run) -> Batch:
        return torch.zeros_like(batch[0]), *batch[1:]


@dataclass(frozen=True)
class ActivatedOutput(Mistake):
    """The network ends in an activation that the loss applies again, or in a ReLU."""

    exact: ClassVar[tuple[str, ...]] = ("output_activation",)
    also: ClassVar[tuple[str, ...]] = (*STUCK, "saturation", "vanishing", "dead_units")
    activation: str

    @classmethod
    def applies(cls, program: type[Program]) -> bool:
        return bool(program.head) and bool(program.activation)

    def prepare(self, program: Program) -> None:
        new = {"softmax": nn.Softmax(-1), "sigmoid": nn.Sigmoid(), "relu": nn.ReLU()}[
            program.activation if self.activation == "same" else self.activation
        ]
        replace_module(program, program.head, nn.Sequential(module_at(program, program.head), new))


@dataclass(frozen=True)
class ScaledInput(Mistake):
    """The inputs are off scale: multiplied, and shifted."""

    exact: ClassVar[tuple[str, ...]] = ("input_scale",)
    also: ClassVar[tuple[str, ...]] = ("bad_init", "saturation", "dead_units", "lr_too_high", "exploding")
    factor: float
    offset: float = 0.0

    @classmethod
    def applies(cls, program: type[Program]) -> bool:
        return program.has_float_inputs

    def prepare(self, program: Program) -> None:
        for name in ("x", "val_x"):
            setattr(program, name, getattr(program, name) * self.factor + self.offset)


@dataclass(frozen=True)
class ScaledTarget(Mistake):
    """The targets of a regression are off scale."""

    exact: ClassVar[tuple[str, ...]] = ("target_scale",)
    also: ClassVar[tuple[str, ...]] = (*STUCK, "exploding", "lr_too_high", "nonfinite")
    factor: float
    offset: float = 0.0

    @classmethod
    def applies(cls, program: type[Program]) -> bool:
        return program.has_column and issubclass(program, Supervised)

    def prepare(self, program: Program) -> None:
        for name in ("y", "val_y"):
            setattr(program, name, getattr(program, name) * self.factor + self.offset)


@dataclass(frozen=True)
class BroadcastTargets(Mistake):
    """Targets (N,) against outputs (N, 1): the loss compares every output with every target."""

    exact: ClassVar[tuple[str, ...]] = ("shape_mismatch",)
    also: ClassVar[tuple[str, ...]] = ("no_progress",)

    @classmethod
    def applies(cls, program: type[Program]) -> bool:
        return program.has_column

    def batch(self, batch: Batch, run: Run) -> Batch:
        return *batch[:-1], batch[-1].squeeze(-1)


@dataclass(frozen=True)
class LeftInEval(Mistake):
    """The model is in evaluation mode from some step on, after a validation, or from the beginning."""

    exact: ClassVar[tuple[str, ...]] = ("wrong_mode",)
    also: ClassVar[tuple[str, ...]] = ("bad_init", "exploding", "lr_too_high")
    at: float

    @classmethod
    def applies(cls, program: type[Program]) -> bool:
        return program.has_modes

    def batch(self, batch: Batch, run: Run) -> Batch:
        if run.step == round(self.at * run.num_steps):
            for network in run.program.networks.values():
                network.eval()
        return batch


@dataclass(frozen=True)
class SingleExample(Mistake):
    """Batch norm in training mode sees one example at a time."""

    exact: ClassVar[tuple[str, ...]] = ("wrong_mode",)
    also: ClassVar[tuple[str, ...]] = ("oscillation", *STUCK)

    @classmethod
    def applies(cls, program: type[Program]) -> bool:
        return program.has_batch_norm

    def batch(self, batch: Batch, run: Run) -> Batch:
        return tuple(x[:1] for x in batch)


@dataclass(frozen=True)
class ScheduleToZero(Mistake):
    """A schedule that is meant for epochs takes its step on every batch: the rate falls tenfold at each 5% of them."""

    exact: ClassVar[tuple[str, ...]] = ("lr_too_low",)
    also: ClassVar[tuple[str, ...]] = ("no_progress",)
    each: float

    def lr_factor(self, run: Run) -> float:
        return 0.1 ** (run.step // max(1, round(self.each * run.num_steps)))


@dataclass(frozen=True)
class RaisedByHand(Mistake):
    """The learning rate is multiplied by hand in the middle of the run."""

    exact: ClassVar[tuple[str, ...]] = ("lr_too_high",)
    also: ClassVar[tuple[str, ...]] = (*UNSTABLE, "dead_units", "saturation")
    factor: float
    at: float

    def lr_factor(self, run: Run) -> float:
        return self.factor if run.step >= round(self.at * run.num_steps) else 1.0


@dataclass(frozen=True)
class MisplacedClip(Mistake):
    """The gradient is clipped where it is not what the optimizer takes."""

    exact: ClassVar[tuple[str, ...]] = ("clip_ineffective",)
    also: ClassVar[tuple[str, ...]] = (*UNSTABLE, "dead_units", "saturation", "clip_always", *STUCK)
    when: str

    def clips(self, when: str) -> bool:
        return when == self.when


@dataclass(frozen=True)
class ShuffledLabels(Mistake):
    """Inputs and targets were shuffled apart."""

    exact: ClassVar[tuple[str, ...]] = ("no_progress",)

    @classmethod
    def applies(cls, program: type[Program]) -> bool:
        return program.has_targets

    def batch(self, batch: Batch, run: Run) -> Batch:
        generator = torch.Generator().manual_seed(run.step)
        return *batch[:-1], batch[-1][torch.randperm(len(batch[-1]), generator=generator)]
