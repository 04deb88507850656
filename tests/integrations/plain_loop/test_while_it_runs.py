"""While the loop runs: findings as they open and close, and steps that are not finite."""

from __future__ import annotations

import math

import torch
from torch import nn

import stabletrain as st


def run(model, doctor, num_steps, lr=0.05, poison=(), change=lambda step: None):
    """Train a regression; poisoned batches contain a NaN. Return the steps that the optimizer took."""
    optimizer, taken = torch.optim.SGD(model.parameters(), lr=lr), []
    generator = torch.Generator().manual_seed(0)
    for step in range(num_steps):
        change(step)
        x = torch.randn(16, 4, generator=generator)
        y = x.sum(dim=1, keepdim=True)
        if step in poison:
            x[0, 0] = math.nan
        loss = (model(x) - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        if doctor.step(loss):
            optimizer.step()
            taken.append(step)
    return taken


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))


def test_a_healthy_run_is_quiet():
    lines = []
    doctor = st.Doctor(small(), on_finding=lines.append)
    assert len(run(doctor._model, doctor, 120)) == 120
    assert lines == []


def test_a_finding_opens_once_and_closes():
    lines, model = [], small()
    doctor = st.Doctor(model, on_finding=lines.append, skip_nonfinite=True)
    run(model, doctor, 14, poison=range(5, 14))
    assert len(lines) == 1
    assert lines[0].startswith("step 10: critical nonfinite in L00.0. ")
    run(model, doctor, 60)
    assert len(lines) == 2
    assert lines[1].endswith(": nonfinite in L00.0 is over")


def test_steps_that_are_not_finite_are_skipped_counted_and_named():
    model = small()
    doctor = st.Doctor(model, skip_nonfinite=True)
    taken = run(model, doctor, 40, poison=(7, 21))
    assert sorted({*range(40)} - {*taken}) == [7, 21]
    assert all(p.isfinite().all() for p in model.parameters())
    assert doctor.num_skipped == 2
    assert "  note: 2 steps were skipped, which were not finite: 7 (L00.0.weight), 21 (L00.0.weight)" in (
        doctor.report().splitlines()
    )


def test_large_steps_are_never_skipped():
    model = small()
    doctor = st.Doctor(model, skip_nonfinite=True)

    def enlarge(step):
        if step == 20:
            with torch.no_grad():
                model[2].weight.mul_(1e6)

    assert len(run(model, doctor, 30, lr=1e-9, change=enlarge)) == 30
    assert doctor.num_skipped == 0


def test_without_being_asked_nothing_is_skipped():
    model = small()
    doctor = st.Doctor(model)
    assert run(model, doctor, 10, poison=(7,)) == [*range(10)]
    assert doctor.num_skipped == 0
    assert doctor.verdict == "nonfinite"


def test_a_weight_that_a_forward_pass_raised_on_is_found_when_the_doctor_is_asked():
    model = small()
    doctor = st.Doctor(model)
    run(model, doctor, 20)
    assert doctor.verdict == "healthy"
    model[2].weight.data[0, 0] = math.nan  # whoever calls the model now raises, as torch's distributions do
    assert doctor.verdict == "nonfinite"
    (found,) = (f for f in doctor.findings if f.alarms)
    assert (found.first_step, found.evidence["origin"], found.evidence["module"]) == (20, "weight", "2")
