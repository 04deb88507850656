"""The stability policy: what stops a run before it spoils its weights."""

from __future__ import annotations


class StabilityStop(RuntimeError):
    """A run was stopped by the stability policy (exit code 3)."""


class NonFiniteGradient(StabilityStop):
    """The gradient holds Inf or NaN; the weights are as they were before this step.

    Args:
        step: Number of optimizer steps done before this one.
        norm: Total norm, Inf or NaN.
    """

    def __init__(self, step: int, norm: float) -> None:
        super().__init__(
            f"The gradient of step {step} is not finite (norm {norm}): stopped before the weights changed."
        )
        self.step = step
        self.norm = norm

    def __reduce__(self) -> tuple[type, tuple[int, float]]:
        return type(self), (self.step, self.norm)
