"""NaN in loops that few people write: what is said of them is true."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import stabletrain as st

pytestmark = pytest.mark.filterwarnings("ignore")
BAD = 2


def make() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))


def batch() -> torch.Tensor:
    return torch.randn(8, 4)


def root(model, step, x=None):
    """The square root of 0 on the bad step."""
    return (model(batch() if x is None else x) * (0.0 if step == BAD else 1.0)).abs().sqrt().mean()


def loop(model, loss_of, num_steps=5, after_backward=None):
    doctor, optimizer = st.Doctor(model), torch.optim.SGD(model.parameters(), 0.01)
    for step in range(num_steps):
        optimizer.zero_grad()
        loss = loss_of(model, step)
        loss.backward()
        if after_backward is not None:
            after_backward(model, step)
        doctor.step(loss)
        optimizer.step()
    doctor.detach()
    return doctor


def of(doctor):
    return [f for f in doctor.findings if f.kind == "nonfinite"]


def test_a_call_that_no_loss_depends_on_is_no_origin():
    def loss_of(model, step):
        model(batch() * torch.nan)
        return root(model, step)

    (found,) = of(loop(make(), loss_of))
    assert (found.evidence["operation"], found.first_step) == ("SqrtBackward0", BAD)
    assert found.evidence["origin"] == "invalid_operation"


def test_a_nan_in_outputs_that_nothing_depends_on_is_no_alarm():
    def loss_of(model, step):
        model(batch() * torch.nan)
        return model(batch()).square().mean()

    doctor = loop(make(), loss_of)
    (found,) = of(doctor)
    assert (found.severity, doctor.verdict) == ("info", "healthy")
    assert "nothing needs to be done" in found.advice


def test_a_frozen_models_outputs_may_be_the_origin():
    teacher, model = make().requires_grad_(False), make()
    both = nn.ModuleDict({"teacher": teacher, "student": model})

    def loss_of(both, step):
        x = batch()
        targets = teacher(x * (torch.nan if step == BAD else 1.0))
        return (both["student"](x) - targets).square().mean()

    (found,) = of(loop(both, loss_of))
    assert (found.evidence["origin"], found.evidence["module"]) == ("input", "teacher.0")


@pytest.mark.parametrize("operation", ["LogBackward0", "SqrtBackward0"])
def test_an_optimizer_with_a_closure_has_stepped_by_then(operation):
    model, x = make(), batch()
    optimizer, doctor = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=3), st.Doctor(model)

    def loss_of(step):
        if operation == "SqrtBackward0":
            return root(model, step, x)
        y = model(x).square().mean()
        return (y * 0).log() if step == BAD else y

    for step in range(5):

        def closure(step=step):
            optimizer.zero_grad()
            loss = loss_of(step)
            loss.backward()
            return loss

        doctor.step(optimizer.step(closure))
    (found,) = of(doctor)
    assert (found.evidence["origin"], found.evidence["operation"]) == ("invalid_operation", operation)


def test_a_gradient_that_was_changed_after_the_backward_pass():
    def spoil(model, step):
        if step == BAD:
            model[0].weight.grad /= model[0].weight.grad.norm() * 0

    (found,) = of(loop(make(), lambda model, step: model(batch()).square().mean(), after_backward=spoil))
    assert (found.evidence["origin"], found.evidence["reproducible"]) == (None, False)
    assert "changed after the backward pass" in found.advice


def test_a_hook_on_a_gradient():
    model = make()
    model[0].weight.register_hook(lambda gradient: gradient / 0)
    (found,) = of(loop(model, lambda model, step: model(batch()).square().mean()))
    assert found.evidence["why"] == "in a hook on a gradient: division by 0"


def test_a_table_of_nan_is_not_taken_for_the_targets():
    """The loss's graph is longer than what is kept of it."""
    results = torch.full((100,), torch.nan)

    def loss_of(model, step):
        y = model(batch())
        for _ in range(300):
            y = y + 0
        return (y * (0.0 if step == BAD else 1.0)).sum().log() if step == BAD else y.square().mean() + 0 * len(results)

    (found,) = of(loop(make(), loss_of))
    assert found.evidence["origin"] != "target"


@pytest.mark.parametrize("name", ["double", "complex", "bfloat16", "half"])
def test_any_data_type(name):
    dtype = {"double": torch.float64, "complex": torch.complex64, "bfloat16": torch.bfloat16, "half": torch.float16}
    model = nn.Linear(4, 2).to(dtype[name])
    (found,) = of(loop(model, lambda model, step: root(model, step, batch().to(dtype[name]))))
    assert found.evidence["operation"] == "SqrtBackward0"
    assert loop(nn.Linear(4, 2).to(dtype[name]), lambda m, i: m(batch().to(dtype[name])).abs().mean()).findings == []


def test_parameters_of_several_data_types():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(4, 8).double(), nn.Linear(8, 2).bfloat16()

        def forward(self, x):
            return self.last(self.first(x.double()).bfloat16()).float()

    (found,) = of(loop(Mixed(), root))
    assert found.evidence["operation"] == "SqrtBackward0"


def test_weights_that_the_last_step_spoiled_are_found_when_the_doctor_is_detached():
    model = make()
    doctor, optimizer = st.Doctor(model), torch.optim.SGD(model.parameters(), torch.inf)
    loss = model(batch()).square().mean()
    loss.backward()
    doctor.step(loss)
    optimizer.step()
    doctor.detach()
    for p in model.parameters():
        p.data.zero_()
    assert doctor.verdict == "nonfinite"


def test_a_second_doctor_of_the_same_model_says_the_same():
    model = make()
    first = loop(model, lambda model, step: model(batch()).square().mean())
    second = loop(model, root)
    assert (first.verdict, second.verdict) == ("healthy", "nonfinite")
    assert of(second)[0].evidence["operation"] == "SqrtBackward0"


def test_gradients_of_each_example_by_transforms_of_functions():
    """Values within `vmap` cannot be read, and nothing is."""
    model = make()
    doctor, optimizer = st.Doctor(model), torch.optim.SGD(model.parameters(), 0.01)

    def loss_of(parameters, x):
        return torch.func.functional_call(model, parameters, (x,)).square().mean()

    for _ in range(4):
        x, parameters = batch(), {name: p.detach() for name, p in model.named_parameters()}
        gradients = torch.vmap(torch.func.grad(loss_of), (None, 0))(parameters, x)
        for name, p in model.named_parameters():
            p.grad = gradients[name].mean(0)
        doctor.step(loss_of(parameters, x))
        optimizer.step()
    assert doctor.verdict == "healthy"
    assert "gradient" in doctor.observations.rms


def test_steps_that_a_loss_scaler_skips_are_not_missing():
    """Its first factors are too large by far, so that it skips the first steps."""
    model = make()
    doctor, optimizer = st.Doctor(model, skip_nonfinite=True), torch.optim.SGD(model.parameters(), 0.01)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**45)
    for _ in range(45):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.float16):
            loss = model(batch()).float().square().mean()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        doctor.step(loss)
        scaler.step(optimizer)
        scaler.update()
    assert 20 < doctor.num_skipped < 40
    assert doctor.verdict == "healthy"


def test_gradients_that_are_assigned_do_not_add_up():
    """`torch.autograd.grad` returns them, and the loop puts each in the place of the last."""
    model = make()
    doctor = st.Doctor(model)
    for step in range(6):
        loss = root(model, step) if step == 4 else model(batch()).square().mean()
        for p, gradient in zip(model.parameters(), torch.autograd.grad(loss, [*model.parameters()]), strict=True):
            p.grad = gradient
        doctor.step(loss)
        with torch.no_grad():
            for p in model.parameters():
                p -= 0.01 * p.grad
    assert [f.kind for f in doctor.findings if f.alarms] in (["nonfinite"], [])
