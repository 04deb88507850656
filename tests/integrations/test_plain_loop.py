"""`st.Doctor` in a plain loop: the findings of the rules on the same numbers, and its report."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import stabletrain as st
from stabletrain.diagnosis.doctor import diagnose
from stabletrain.diagnosis.history import load, save


def deep_sigmoid() -> nn.Sequential:
    layers = [m for i in range(12) for m in (nn.Linear(4, 4), nn.Sigmoid())]
    return nn.Sequential(*layers, nn.Linear(4, 1))


def small() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1))


def loop(model: nn.Module, num_steps: int = 20, poison_at: int | None = None):
    """Return the doctor, and torch's own norms of the same steps."""
    optimizer, norms = torch.optim.SGD(model.parameters(), lr=1e-2), {}
    doctor = st.Doctor(model, optimizer=optimizer)
    for step in range(num_steps):
        x = torch.randn(8, 4)
        if step == poison_at:
            x[0, 0] = math.nan
        loss = (model(x) - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        doctor.step(loss)
        norm = float(torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None]))
        if math.isfinite(norm):
            norms[step] = norm
        if step == poison_at:
            break
        optimizer.step()
    return doctor, norms


def test_norms_are_torchs_and_a_step_without_one_has_none():
    doctor, norms = loop(small(), num_steps=6, poison_at=5)
    found = doctor.observations.scalars["gradient/norm/total"]
    assert found.steps.tolist() == list(norms) == [0, 1, 2, 3, 4]
    assert found.values == pytest.approx(list(norms.values()), rel=1e-5)


def test_a_poisoned_batch_is_found_and_what_it_saw_is_saved(tmp_path):
    doctor, _ = loop(small(), poison_at=3)
    assert [(f.kind, f.severity, f.first_step) for f in doctor.findings] == [("nonfinite", "critical", 3)]
    save(doctor.observations, tmp_path / "run.npz")
    assert diagnose(load(tmp_path / "run.npz")) == doctor.findings


def test_clipping_and_the_rate_are_seen_through_the_optimizer():
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    doctor = st.Doctor(model, optimizer=optimizer)
    for step in range(12):
        optimizer.param_groups[0]["lr"] = 0.1 if step < 6 else 0.01
        optimizer.zero_grad()
        loss = (model(torch.ones(4, 4)) - 9).square().mean()
        loss.backward()
        doctor.step(loss)
        st.clip_gradients_(model.parameters(), "norm", max_norm=0.5)
        optimizer.step()
    doctor.validate(accuracy=0.5)
    scalars = doctor.observations.scalars
    assert (scalars["train/lr"].steps.tolist(), scalars["val/accuracy"].steps.tolist()) == ([0, 6], [11])
    assert scalars["clip/norm_after"].values == pytest.approx([0.5] * 10, rel=1e-4)  # measured on ten steps
    assert scalars["clip/fraction"].values.tolist() == [1.0] * 10
    assert doctor.observations.rms["update"].steps.tolist() == list(range(10))


def test_the_gradient_through_time_is_measured_now_and_then():
    model = nn.RNN(2, 4, batch_first=True)
    doctor = st.Doctor(model)
    for _ in range(31):
        doctor.follow_time(torch.randn(2, 7, 2), lambda outputs: outputs[0][:, -1].sum())
        loss = model(torch.randn(2, 7, 2))[0].sum()
        model.zero_grad()
        loss.backward()
        doctor.step(loss)
    waves = doctor.observations.time["l0"]
    assert waves.values.shape == (12, 7)
    assert waves.steps.tolist() == [*range(10), 19, 29]


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


def test_the_report_is_text_that_says_what_where_when_and_what_to_do():
    doctor, _ = loop(deep_sigmoid(), poison_at=14)
    lines = doctor.report().splitlines()
    assert lines[0] == f"verdict: {doctor.verdict}"
    assert "  critical nonfinite in L00.0, step 14" in lines
    assert lines[-1].startswith("  not judged: ")
    assert len(lines) == 2 + 2 * sum(f.severity != "info" for f in doctor.findings)


def test_a_healthy_report_says_in_one_line_what_it_could_not_judge():
    doctor, _ = loop(small())
    assert (doctor.findings, doctor.verdict) == ([], "healthy")
    verdict, missing = doctor.report().splitlines()
    assert verdict == "verdict: healthy"
    assert missing == (
        "  not judged: what comes after 20 steps (num_steps=…); "
        "chance level, for which the first loss stands (prior_loss=…)"  # all targets are 1: there is nothing to predict
    )


@pytest.mark.parametrize("make", [nn.ReLU, lambda: nn.Linear(2, 1).requires_grad_(False), small])
def test_nothing_is_known_of_a_model_without_gradients(make):
    doctor = st.Doctor(make())
    assert (doctor.verdict, doctor.report()) == ("unknown", "verdict: unknown; step() was never called")
    for _ in range(5):
        doctor.step()
    assert doctor.verdict == "unknown"
    assert doctor.report().startswith("verdict: unknown; no gradient was seen: call step() after backward()")


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
