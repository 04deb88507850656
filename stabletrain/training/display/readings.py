"""The numbers that are shown of a run at one moment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stabletrain.vocabulary.finding import Finding


@dataclass(frozen=True)
class Readings:
    """One moment of a run.

    Attributes:
        step: Steps taken so far.
        total_steps: Steps of the whole run; None if unknown.
        epoch: Number of the epoch, from 1.
        num_epochs: Number of epochs; None without a limit.
        share: Fraction of the run that is done; None if unknown.
        steps_per_second: Over the last seconds; None if not known yet.
        left_s: Seconds left; None if unknown.
        elapsed_s: Seconds since training began.
        loss: Of the last batch; None if the module returns none.
        metric: Name and value of a metric of the last validation.
        gradients: The smallest and the largest rms of a layer's gradient; None if none was measured.
        num_nonfinite: Number of layers with Inf or NaN in their gradient.
        findings: The doctor's open findings; None if it has not diagnosed yet, or there is no doctor.
        activity: What goes on beside training, such as `validating 3/40`; "" while training.
        is_over: Whether training has ended.
    """

    step: int = 0
    total_steps: int | None = None
    epoch: int = 1
    num_epochs: int | None = None
    share: float | None = None
    steps_per_second: float | None = None
    left_s: float | None = None
    elapsed_s: float = 0.0
    loss: float | None = None
    metric: tuple[str, float] | None = None
    gradients: tuple[float, float] | None = None
    num_nonfinite: int = 0
    findings: Sequence[Finding] | None = None
    activity: str = ""
    is_over: bool = False
