"""st.Doctor in a plain loop: the same findings as the rules on the same numbers, and what it prints."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import stabletrain as st
from stabletrain.diagnosis.doctor import diagnose
from stabletrain.diagnosis.observations import Observations


def deep_sigmoid() -> nn.Sequential:
    layers = [m for i in range(12) for m in (nn.Linear(4, 4), nn.Sigmoid())]
    return nn.Sequential(*layers, nn.Linear(4, 1))


def small() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1))


def loop(model: nn.Module, num_steps: int = 5, poison_at: int | None = None):
    """Return the doctor, and what a second watch and torch itself say of the same steps."""
    doctor, watch, snapshots, norms = st.Doctor(model), st.Watch(model), [], {}
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    for step in range(num_steps):
        x = torch.randn(8, 4)
        if step == poison_at:
            x[0, 0] = math.nan
        loss = model(x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        doctor.step(loss)
        snapshots.append(watch.step(histograms=False))
        norm = float(torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None]))
        if math.isfinite(norm):
            norms[step] = norm
        if step != poison_at:
            optimizer.step()
    return doctor, tuple(snapshots), norms


@pytest.mark.parametrize("make", [deep_sigmoid, small])
@pytest.mark.parametrize("poison_at", [None, 3])
def test_findings_are_those_of_the_rules_on_the_same_numbers(make, poison_at):
    doctor, snapshots, norms = loop(make(), poison_at=poison_at)
    assert doctor.findings == diagnose(Observations(snapshots, norms))
    kinds = [f.kind for f in doctor.findings]
    assert kinds == ["vanishing"] * (make is deep_sigmoid) + ["nonfinite"] * (poison_at is not None)  # by first step
    assert doctor.verdict == (kinds or ["healthy"])[0]


def test_norms_are_torchs_and_a_step_without_one_has_none():
    doctor, _, norms = loop(small(), num_steps=6, poison_at=2)
    assert list(doctor._norms) == [0, 1, 3, 4, 5] == list(norms)
    assert list(doctor._norms.values()) == pytest.approx(list(norms.values()), rel=1e-5)


def test_an_explosion_of_the_norm_is_found_through_the_doctor():
    weight = nn.Parameter(torch.ones(3))
    model = nn.Module()
    model.weight = weight
    doctor = st.Doctor(model)
    for step in range(90):
        weight.grad = torch.full((3,), 1e4 if step >= 80 else 1.0)
        doctor.step()
    (finding,) = doctor.findings
    assert (finding.kind, finding.layer, finding.first_step, finding.last_step) == ("exploding", None, 80, 89)
    assert finding.evidence["largest_norm"] == pytest.approx(1e4 * 3**0.5)


def test_float64_gradients_beyond_float32_have_a_norm():
    model = nn.Linear(2, 1, bias=False).double()
    doctor = st.Doctor(model)
    model.weight.grad = torch.full((1, 2), 1e200, dtype=torch.float64)
    doctor.step()
    assert doctor._norms == {0: pytest.approx(2**0.5 * 1e200)}


def test_the_report_is_text_that_says_what_where_when_and_what_to_do():
    doctor, *_ = loop(deep_sigmoid(), poison_at=4)
    lines = doctor.report().splitlines()
    vanishing, nonfinite = doctor.findings  # equally severe: what came first, first
    assert lines == [
        "verdict: vanishing",
        "  critical vanishing in L00.0.weight, steps 0–3",
        f"    {vanishing.advice}",
        "  critical nonfinite in L00.0.weight, steps 4–4",
        f"    {nonfinite.advice}",
    ]


def test_the_report_speaks_of_all_layers_where_none_is_at_fault():
    model = nn.Module()
    model.weight = nn.Parameter(torch.ones(1))
    doctor = st.Doctor(model)
    for norm in [1.0] * 64 + [1e3] * 5:
        model.weight.grad = torch.tensor([norm])
        doctor.step(1.0)
    assert doctor.report().splitlines()[1] == "  warning exploding in all layers, steps 64–68"


def test_a_healthy_report_is_one_line():
    doctor, *_ = loop(small())
    assert (doctor.report(), doctor.findings, doctor.verdict) == ("verdict: healthy", [], "healthy")


@pytest.mark.parametrize("make", [nn.ReLU, lambda: nn.Linear(2, 1).requires_grad_(False), small])
def test_a_model_without_gradients_is_not_ill(make):
    doctor = st.Doctor(make())
    assert doctor.verdict == "healthy"
    for _ in range(5):
        doctor.step()
    assert doctor.verdict == "healthy"


def test_the_doctor_changes_nothing():
    def train(watched: bool) -> list[torch.Tensor]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1))
        doctor = st.Doctor(model) if watched else None
        optimizer = torch.optim.Adam(model.parameters())
        for _ in range(50):
            optimizer.zero_grad()
            loss = model(torch.randn(8, 4)).square().mean()
            loss.backward()
            if doctor is not None:
                doctor.step(loss)
                assert doctor.verdict
            optimizer.step()
        return list(model.parameters())

    assert all(torch.equal(a, b) for a, b in zip(train(True), train(False), strict=True))
