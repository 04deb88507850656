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


class SickRun(StabilityStop):
    """A critical finding stayed open, and the doctor was asked to stop for it (`doctor=strict`).

    Args:
        step: Number of the step after which it stopped.
        kind: The finding's kind.
        layer: Where, or None for the whole model.
    """

    def __init__(self, step: int, kind: str, layer: str | None) -> None:
        where = f" in {layer}" if layer else ""
        super().__init__(f"The doctor stopped the run at step {step}: {kind}{where}.")
        self.step, self.kind, self.layer = step, kind, layer

    def __reduce__(self) -> tuple[type, tuple[int, str, str | None]]:
        return type(self), (self.step, self.kind, self.layer)
