"""Small programs that produce Inf or NaN: each origin, in the model and in the loss, forward and backward."""

from __future__ import annotations

import io
import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import stabletrain as st
from benchmarks.doctor.nonfinite.__main__ import judge, run
from benchmarks.doctor.nonfinite.program import PROGRAMS
from stabletrain.inspection.nonfinite.inspector import NonFiniteInspector
from stabletrain.vocabulary.finding import BECAUSE

pytestmark = pytest.mark.filterwarnings("ignore")

CHOSEN = (
    *("log_of_a_softmax", "mean_over_an_empty_mask", "exponential_of_the_rate", "nan_target_of_the_squared_error"),
    *("nan_target_of_a_loss_by_hand", "root_of_a_zero_distance", "where_around_a_division", "derivative_of_ones_own"),
    *("padded_row_of_multihead_attention", "padded_row_compiled_eagerly", "length_of_a_zero_vector"),
    *("shared_root", "functional_call_of_a_length", "parts_called_by_the_loop", "loss_within_the_model"),
    *("nan_in_the_inputs", "nan_in_an_image", "nan_in_what_was_loaded", "half_precision_beyond_its_range"),
    *("length_of_a_zero_vector_in_bfloat16", "recurrence_that_explodes", "second_micro_batch"),
    *("attention_with_partial_masks", "infinity_outside_of_the_mask", "loss_scaler_that_skips"),
)


@pytest.mark.parametrize("name", CHOSEN)
def test_origin_operation_and_module(name):
    program = PROGRAMS[name]
    findings = run(program)
    assert judge(program, findings) == (True, True, True), findings


def loop(model, loss_of, num_steps=4, doctor=None, optimizer=None):
    doctor = doctor or st.Doctor(model)
    optimizer = optimizer or torch.optim.SGD(model.parameters(), 0.01)
    for step in range(num_steps):
        optimizer.zero_grad()
        loss = loss_of(model, step)
        loss.backward()
        doctor.step(loss)
        optimizer.step()
    return doctor


def root_of_zero(model, step):
    y = model(torch.randn(6, 3))
    return (y * (0.0 if step == 2 else 1.0)).square().sum(1).sqrt().mean()  # the line


def nonfinite(doctor):
    return next(f for f in doctor.findings if f.kind == "nonfinite")


def test_the_line_and_the_advice_are_those_of_the_operation():
    finding = nonfinite(loop(nn.Linear(3, 2), root_of_zero))
    assert finding.evidence["operation"] == "SqrtBackward0"
    assert finding.evidence["line"].endswith("# the line")
    assert (finding.first_step, finding.layer) == (2, None)
    assert "torch.sqrt(" in finding.advice
    assert "clip_gradients_" not in finding.advice


def test_a_nan_in_the_batch_is_given_with_its_samples():
    def loss_of(model, step):
        x = torch.randn(6, 3)
        if step == 1:
            x[4, 1] = torch.nan
        return F.mse_loss(model(x), torch.zeros(6, 2))

    finding = nonfinite(loop(nn.Sequential(nn.Linear(3, 2)), loss_of))
    assert (finding.evidence["origin"], finding.evidence["samples"]) == ("input", [4])
    assert finding.evidence["reproducible"] is True
    assert finding.layer is None  # the batch is at fault
    assert "samples 4" in finding.advice


def test_only_growth_is_told_to_clip_and_to_lower_the_learning_rate():
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    doctor = loop(
        model,
        lambda model, step: F.mse_loss(model(torch.randn(16, 8)), torch.ones(16, 4)),
        200,
        optimizer=torch.optim.SGD(model.parameters(), 10.0),
    )
    finding = nonfinite(doctor)
    assert finding.evidence["origin"] == "overflow"
    assert finding.evidence["growth"] > 1e6
    assert "lower the learning rate" in finding.advice


def test_an_operation_that_is_invalid_has_no_other_cause():
    """Whatever else is wrong with the run, such as a rate or an initialization."""
    model = nn.Sequential(*[nn.Linear(3, 3) for _ in range(6)])
    for layer in model:
        nn.init.normal_(layer.weight, std=3.0)
    finding = nonfinite(loop(model, root_of_zero))
    assert finding.alarms
    assert BECAUSE not in finding.evidence


def test_a_step_that_cannot_be_repeated_is_said_to_be_no_matter_of_numbers():
    class Flipped(nn.Module):
        """Returns NaN once, as a flipped bit would."""

        def __init__(self):
            super().__init__()
            self.linear, self.calls = nn.Linear(3, 2), 0

        def forward(self, x):
            self.calls += 1
            y = self.linear(x)
            return y + torch.tensor(torch.nan if self.calls == 3 else 0.0)

    finding = nonfinite(loop(Flipped(), lambda model, step: model(torch.ones(4, 3)).square().mean()))
    assert finding.evidence["origin"] is None
    assert finding.evidence["reproducible"] is False
    assert "hardware" in finding.advice


def test_training_is_the_same_with_and_without_the_doctor():
    def train(watched):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 2))
        inspector = NonFiniteInspector(model) if watched else None
        optimizer = torch.optim.Adam(model.parameters(), 0.01)
        for step in range(5):
            optimizer.zero_grad()
            loss = root_of_zero(model, step)
            loss.backward()
            if inspector is not None:
                notices = [*inspector.inspect(view_of(model, loss, step))]
                assert bool(notices) == (step == 2)
            if step != 2:
                optimizer.step()
        if inspector is not None:
            inspector.detach()
        return [*model.state_dict().values(), torch.get_rng_state()]

    assert all(torch.equal(a, b) for a, b in zip(train(True), train(False), strict=True))


def view_of(model, loss, step):
    from stabletrain.inspection.inspector import StepView

    return StepView(step, model, loss)


def test_nothing_is_kept_after_a_step_and_nothing_is_left_behind():
    backward = torch.autograd.backward
    model = nn.Linear(3, 2)
    inspector = NonFiniteInspector(model)
    x = torch.randn(4, 3)
    loss = model(x).exp().mean()
    loss.backward()
    assert not [*inspector.inspect(view_of(model, loss, 0))]
    kept = weakref.ref(x)
    del x, loss
    assert kept() is None
    torch.save(model, io.BytesIO())
    inspector.detach()
    assert "_compiled_call_impl" not in vars(model)
    assert torch.autograd.backward is backward


def test_a_doctor_that_is_forgotten_leaves_the_model_as_it_was():
    model = nn.Linear(3, 2)
    inspector = NonFiniteInspector(model)
    model(torch.ones(1, 3)).sum().backward()
    del inspector
    model(torch.ones(1, 3)).sum().backward()
    assert model.weight.grad.tolist() == [[2.0] * 3] * 2


def test_a_failure_of_the_search_does_not_stop_training(monkeypatch, caplog):
    def fail(*_):
        raise ValueError("no")

    monkeypatch.setattr("stabletrain.inspection.nonfinite.inspector.explain", fail)
    finding = nonfinite(loop(nn.Linear(3, 2), root_of_zero))
    assert finding.evidence["origin"] is None
    assert "clip" in finding.advice  # what is told where nothing is known


def test_a_step_that_raised_within_a_with_block_is_explained():
    model = nn.Linear(3, 2)
    doctor = st.Doctor(model)

    def train():
        for step in range(4):
            y = model(torch.randn(6, 3))
            loss = (y * (0.0 if step == 2 else 1.0)).abs().log().mean()  # the logarithm
            if not loss.isfinite():
                raise ValueError("stop")
            loss.backward()
            doctor.step(loss)

    with pytest.raises(ValueError, match="stop"), doctor:
        train()
    finding = nonfinite(doctor)
    assert (finding.first_step, finding.severity, doctor.verdict) == (2, "critical", "nonfinite")
    assert (finding.evidence["operation"], finding.evidence["why"]) == ("LogBackward0", "the logarithm of 0")
    assert finding.evidence["line"].endswith("# the logarithm")


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_exception_beside_tables_of_nan_and_masks_is_no_finding(error):
    model, results, mask = nn.Linear(3, 2), torch.full((9,), torch.nan), torch.full((4, 4), -torch.inf)
    doctor = st.Doctor(model)

    def train(results, mask):
        for step in range(4):
            loss = model(torch.randn(6, 3)).square().mean()
            loss.backward()
            doctor.step(loss)
            if step == 2:
                raise error

    with pytest.raises(error), doctor:
        train(results, mask)
    assert len(results) > len(mask)
    assert "nonfinite" not in [finding.kind for finding in doctor.findings]
