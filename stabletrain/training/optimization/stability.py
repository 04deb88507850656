"""The stability policy: exceptions that stop a run."""

from __future__ import annotations


class StabilityStop(RuntimeError):
    """A run was stopped by the stability policy (exit code 3)."""


class NonFiniteGradient(StabilityStop):
    """The gradient contains Inf or NaN; the step has not been taken, and the weights are unchanged.

    Args:
        step: Number of optimizer steps taken before this one.
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
    """A critical finding persisted, and the doctor is configured to stop the run for it (`doctor=strict`).

    Args:
        step: Number of the last step that was taken.
        kind: The finding's kind.
        layer: Layer of the finding, or None for the whole model.
    """

    def __init__(self, step: int, kind: str, layer: str | None) -> None:
        where = f" in {layer}" if layer else ""
        super().__init__(f"The doctor stopped the run at step {step}: {kind}{where}.")
        self.step, self.kind, self.layer = step, kind, layer

    def __reduce__(self) -> tuple[type, tuple[int, str, str | None]]:
        return type(self), (self.step, self.kind, self.layer)
