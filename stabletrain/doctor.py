"""The doctor in any training loop: watch, collect, diagnose."""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor, nn

from stabletrain.diagnosis.doctor import diagnose
from stabletrain.diagnosis.finding import Finding, verdict_of
from stabletrain.diagnosis.observations import Observations
from stabletrain.signal.measures import Measures
from stabletrain.signal.snapshot import Snapshot
from stabletrain.signal.watch import Watch


class Doctor:
    """Watches a model's gradients in a plain loop and says what is wrong with them.

    Call `step` after `backward()` and before `optimizer.step()`.

    Args:
        model: Any `torch.nn.Module`; shared weights, unused branches and frozen layers included.

    Example:
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
        >>> doctor = Doctor(model)
        >>> for _ in range(5):
        ...     loss = model(torch.ones(4, 3)).square().mean()
        ...     loss.backward()
        ...     doctor.step(loss)
        >>> doctor.findings
        []
    """

    def __init__(self, model: nn.Module) -> None:
        self._watch = Watch(model)
        self._snapshots: list[Snapshot] = []
        self._norms: dict[int, float] = {}

    def step(self, loss: Tensor | float | None = None) -> None:
        """Look at all gradients as they are now.

        Args:
            loss: The loss of this step; kept for rules that look at it.
        """
        snapshot = self._watch.step(histograms=False)
        self._snapshots.append(snapshot)
        layers = Measures.of(snapshot.layers)
        if layers.arrays.num_nonfinite.any():
            return  # it has no norm
        norm = math.hypot(*np.nan_to_num(layers.arrays.rms * np.sqrt(layers.sizes)).tolist())
        if math.isfinite(norm):
            self._norms[snapshot.step] = norm

    @property
    def findings(self) -> list[Finding]:
        """What is wrong so far, worst first."""
        return diagnose(Observations(tuple(self._snapshots), self._norms))

    @property
    def verdict(self) -> str:
        """`healthy`, or the kind of the worst finding."""
        return verdict_of(self.findings)

    def report(self) -> str:
        """Return the verdict and the findings as text."""
        if not any(snapshot.layers for snapshot in self._snapshots):
            return "verdict: none, no gradient was seen: call step() after backward()"
        lines = [f"verdict: {self.verdict}"]
        for f in self.findings:
            lines.append(f"  {f.severity} {f.kind} in {f.layer or 'all layers'}, steps {f.first_step}–{f.last_step}")
            lines.append(f"    {f.advice}")
        return "\n".join(lines)
