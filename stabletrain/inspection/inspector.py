"""What inspects a training step, and what it is given."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor, nn
from torch.optim import Optimizer

from stabletrain.signal.snapshot import Snapshot
from stabletrain.vocabulary.notice import Notice


@dataclass(frozen=True)
class StepView:
    """A training step between its backward pass and the optimizer's step.

    Attributes:
        step: Number of the step, from 0.
        model: The model that is trained.
        loss: The loss as the loop computed it. If it is a tensor with a graph, its nodes can be walked, although the
            backward pass has freed their saved tensors.
        optimizers: The optimizers that are known to step parameters of the model, so far.
        snapshot: The gradient statistics of this step, if they were measured.
    """

    step: int
    model: nn.Module
    loss: Tensor | float | None
    optimizers: tuple[Optimizer, ...] = ()
    snapshot: Snapshot | None = None


class Inspector:
    """Looks for one kind of mistake. It changes nothing: weights, gradients, buffers and random states stay.

    Args:
        model: The model that is trained.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def expect(self, step: int) -> None:
        """Prepare for the forward pass of `step`, for example by opening hooks."""

    def inspect(self, view: StepView) -> Iterable[Notice]:
        """Return what is wrong on this step; a notice of the same kind and layer extends the earlier one."""
        raise NotImplementedError

    def inspect_failure(self, view: StepView, error: BaseException) -> Iterable[Notice]:
        """Return what is wrong on a step that raised, such as by a check of the user's own; nothing by default.

        The step may have ended before its backward pass: the gradients may be those of the step before.
        """
        return ()

    def detach(self) -> None:
        """Remove all hooks."""
