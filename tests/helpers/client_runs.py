"""Runs of other people's models: healthy, and broken in four ways, with what the doctor may say first of each.

A client is a function `train(fault, watched, folder)` that trains its model for a few dozen steps and returns a `Run`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import stabletrain as st

FAULTS = ("rate", "nan", "zero", "tenfold")
# What is right first. Zero weights pass nothing on, and tenfold ones overflow or saturate what follows.
RIGHT = {
    "rate": {"lr_too_high", "exploding"},
    "nan": {"nonfinite"},
    "zero": {"bad_init", "vanishing", "dead_units", "no_progress", "no_gradient"},
    "tenfold": {"bad_init", "exploding", "saturation", "dead_units", "vanishing"},
}
NAN_CALL = 25  # forward pass before which a weight becomes NaN
HARMLESS = 0.1  # of what a healthy run gains: a fault that costs less did no harm, and need not be found
LEARNED = 0.95  # of the first loss: a healthy run ends below


@dataclass
class Run:
    """What is left of a run.

    Attributes:
        weights: The parameters at the end.
        verdict: The doctor's; None for a run without it.
        findings: Its findings.
        losses: The training loss of every step, or what else shows what was learned; lower is better.
    """

    weights: dict[str, Tensor]
    verdict: str | None = None
    findings: Sequence[st.Finding] = ()
    losses: list[float] = field(default_factory=list)

    @property
    def level(self) -> float:
        """Mean of the last five losses; infinite if one is not finite."""
        last = self.losses[-5:]
        return sum(last) / len(last) if last and all(map(math.isfinite, last)) else math.inf


Client = Callable[[str | None, bool, Path], Run]
_ALONE: dict[Client, Run] = {}


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of the parameters by name."""
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def rate(lr: float, fault: str | None) -> float:
    """Return the learning rate of a run."""
    return 1000 * lr if fault == "rate" else lr


@torch.no_grad()
def break_(model: nn.Module, fault: str | None) -> nn.Module:
    """Break a model in place: all weights zero or tenfold, or one element NaN from a certain forward pass on."""
    trained = [p for p in model.parameters() if p.dim() > 1 and p.requires_grad]
    if fault in ("zero", "tenfold"):
        for weight in trained:
            weight.mul_(0.0 if fault == "zero" else 10.0)
    if fault == "nan":
        owner = next(m for m in model.modules() if any(p.dim() > 1 for p in m.parameters(recurse=False)))
        weight = next(p for p in owner.parameters(recurse=False) if p.dim() > 1)
        owner.register_forward_pre_hook(_Poison(weight))
    return model


class _Poison:
    def __init__(self, weight: nn.Parameter) -> None:
        self.weight, self.num_calls = weight, 0

    def __call__(self, module: nn.Module, inputs: Any) -> None:
        self.num_calls += module.training
        if self.num_calls == NAN_CALL:
            self.weight.data.view(-1)[0] = math.nan


def _alone(client: Client, folder: Path) -> Run:
    """Return the healthy run without a doctor, made once for each client."""
    if client not in _ALONE:
        _ALONE[client] = client(None, False, folder / "alone")
    return _ALONE[client]


def check_healthy(client: Client, folder: Path) -> Run:
    """Assert that a healthy run learns and is left alone: the same weights, and no finding above `info`."""
    alone, watched = _alone(client, folder), client(None, True, folder / "watched")
    assert alone.weights.keys() == watched.weights.keys()
    for name, weight in alone.weights.items():
        assert torch.equal(weight, watched.weights[name]), name
    alarms = [(f.kind, f.severity, f.layer, f.evidence) for f in watched.findings if f.alarms]
    assert not alarms, alarms
    assert watched.verdict in ("healthy", "unknown"), watched.verdict
    first = sum(alone.losses[:5]) / 5
    assert alone.level < first - (1 - LEARNED) * abs(first), (first, alone.level)
    return watched


def check_broken(client: Client, fault: str, folder: Path) -> None:
    """Assert that what is wrong comes first, unless the fault did no harm."""
    run = client(fault, True, folder / fault)
    alarms = [f.kind for f in run.findings if f.alarms]
    if run.verdict in RIGHT[fault]:
        return
    healthy = _alone(client, folder)
    if not alarms and healthy.losses and run.losses:
        gain = sum(healthy.losses[:5]) / 5 - healthy.level
        if run.level <= healthy.level + HARMLESS * abs(gain):
            pytest.skip("this fault does the client no harm")
    seen = f"{fault}: verdict {run.verdict}, alarms {alarms}, loss {run.losses[:1]} to {run.level:.3g}"
    assert run.verdict in RIGHT[fault], seen
