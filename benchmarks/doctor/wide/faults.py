"""What can be wrong with a program, whatever it learns. A fault changes the training at the places where users err."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn
from torch.optim import Optimizer

from benchmarks.doctor.wide.program import Batch, Program

if TYPE_CHECKING:
    from benchmarks.doctor.wide.run import Run


@dataclass(frozen=True)
class Fault:
    """The base class changes nothing; each fault overrides what it changes.

    Attributes:
        exact: Kinds that name the fault itself.
        also: Kinds that describe what it leads to, and are right as the first finding too.
        is_mistake: Whether it is a mistake in the code, which the doctor should name exactly.
    """

    exact: ClassVar[tuple[str, ...]] = ()
    also: ClassVar[tuple[str, ...]] = ()
    is_mistake: ClassVar[bool] = False

    @classmethod
    def applies(cls, program: type[Program]) -> bool:
        """Whether the program has what the fault needs."""
        return True

    def prepare(self, program: Program) -> None:
        """Change the program before its optimizers are made."""

    def parameters(self, program: Program, network: nn.Module) -> list[nn.Parameter]:
        """Return what the optimizer of a network is given."""
        return [p for p in network.parameters() if p.requires_grad]

    def lr_factor(self, run: Run) -> float:
        """Return a factor of the learning rate."""
        return 1.0

    def batch(self, batch: Batch, run: Run) -> Batch:
        """Return the batch that the program sees."""
        return batch

    def before_backward(self, optimizer: Optimizer) -> None:
        """Act between the forward and the backward pass; by default, set the gradients to zero."""
        optimizer.zero_grad()

    def after_backward(self, optimizer: Optimizer) -> None:
        """Act between the backward pass and the optimizer's step, before the doctor measures."""

    def after_step(self, run: Run) -> None:
        """Act after a step of all networks."""

    def clips(self, when: str) -> bool:
        """Whether the gradient is clipped `before_backward`, `before_unscale`, `before_step` or `after_step`."""
        return when == "before_step"


class Mistake(Fault):
    """A mistake in the code."""

    is_mistake: ClassVar[bool] = True


def module_at(program: Program, path: str) -> nn.Module:
    """Return a module of the first network."""
    return program.model.get_submodule(path)


def replace_module(program: Program, path: str, new: nn.Module) -> None:
    """Put another module of the first network at a path."""
    parent, _, name = path.rpartition(".")
    setattr(module_at(program, parent), name, new)


def matrices(program: Program) -> list[nn.Parameter]:
    """Return the weights of the first network that are matrices or kernels, in order."""
    return [p for p in program.model.parameters() if p.dim() > 1 and p.requires_grad]


def detach_output(module: nn.Module, inputs: Any, output: Any) -> Any:
    """Return the output without its graph (forward hook)."""
    if isinstance(output, Tensor):
        return output.detach()
    return tuple(detach_output(module, inputs, x) for x in output) if isinstance(output, tuple) else output
