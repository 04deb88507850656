"""`st.Doctor(model)`, told nothing: what it finds by itself, and how it judges."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import stabletrain as st
from stabletrain.vocabulary.signals import CLIP, MOMENT, UPDATE, WEIGHT

CLASSES = 4


def network(depth: int = 2, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    torch.manual_seed(0)
    hidden = [m for _ in range(depth) for m in (nn.Linear(8, 8), activation())]
    return nn.Sequential(*hidden, nn.Linear(8, CLASSES))


def batch(generator: torch.Generator, n: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(n, 8, generator=generator)
    return x, x[:, :CLASSES].argmax(dim=1)


def train(model, optimizer, doctor, num_steps: int, ask_every: int = 0, clip: float = math.inf) -> list[str]:
    """Train on a task that is easy to learn; return the verdicts that were asked for on the way."""
    generator, verdicts = torch.Generator().manual_seed(0), []
    for step in range(num_steps):
        x, y = batch(generator)
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        doctor.step(loss)
        nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        if ask_every and (step + 1) % ask_every == 0:
            verdicts.append(doctor.verdict)
    return verdicts


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
def test_it_measures_the_same_as_when_it_is_told(optimizer):
    found = []
    for is_told in (True, False):
        model = network()
        stepper = optimizer(model.parameters(), lr=0.01)
        told = {"optimizer": stepper, "num_steps": 40, "prior_loss": 1.3} if is_told else {}
        doctor = st.Doctor(model, **told)
        train(model, stepper, doctor, 40, clip=0.1)
        doctor.detach()
        found.append(doctor.observations)
    told, bare = found
    assert told.rms.keys() == bare.rms.keys() >= {UPDATE, CLIP, WEIGHT}
    assert (MOMENT in bare.rms) == (optimizer is torch.optim.Adam)
    for signal, table in told.rms.items():
        assert bare.rms[signal].layers == table.layers
        assert bare.rms[signal].steps.tolist() == table.steps.tolist()
        assert (bare.rms[signal].values == table.values).all() or math.isnan(table.values.sum())
    assert told.scalars.keys() == bare.scalars.keys()
    for name, series in told.scalars.items():
        assert (bare.scalars[name].steps.tolist(), bare.scalars[name].values.tolist()) == (
            series.steps.tolist(),
            series.values.tolist(),
        )
    assert bare.about.prior_loss == pytest.approx(math.log(CLASSES), rel=0.02)
    assert bare.about.settings == told.about.settings == {"optimizer.lr": 0.01}


@pytest.mark.parametrize(
    ("lr", "verdict"), [(1e-6, "lr_too_low"), (3e-3, "healthy"), (30.0, "lr_too_high")], ids=["low", "right", "high"]
)
def test_rates_are_judged_without_the_optimizer_or_the_budget(lr, verdict):
    model = network()
    doctor = st.Doctor(model)
    train(model, torch.optim.Adam(model.parameters(), lr=lr), doctor, 300)
    assert doctor.verdict == verdict


def test_a_diagnosis_on_the_way_does_not_judge_by_what_is_still_to_come():
    model = network()
    doctor = st.Doctor(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)  # 1,000 steps would be enough for it
    train(model, optimizer, doctor, 90)
    assert doctor.observations.about.num_steps is None  # a trial
    train(model, optimizer, doctor, 60)
    assert doctor.observations.about.num_steps == 150  # as if it ended here
    train(model, optimizer, doctor, 60)
    assert doctor.observations.about.num_steps is None  # it went on
    doctor.detach()
    assert doctor.observations.about.num_steps == 210
    told = st.Doctor(model, num_steps=1000)
    train(model, optimizer, told, 120)
    assert told.observations.about.num_steps == 1000


def test_a_network_that_was_trained_before_is_healthy_though_its_loss_hardly_falls():
    model = network()
    train(model, torch.optim.Adam(model.parameters(), lr=1e-2), st.Doctor(model), 400)
    doctor = st.Doctor(model)
    train(model, torch.optim.Adam(model.parameters(), lr=1e-5), doctor, 200)
    losses = doctor.observations.scalars["train/loss"].values
    assert losses[0] < 0.5 * math.log(CLASSES)
    assert doctor.verdict == "healthy"


def reinforce(model, lr: float, num_steps: int = 200):
    """A policy gradient; its loss is around zero."""
    doctor, optimizer = st.Doctor(model), torch.optim.Adam(model.parameters(), lr=lr)
    generator = torch.Generator().manual_seed(0)
    for _ in range(num_steps):
        x, y = batch(generator)
        policy = torch.distributions.Categorical(logits=model(x))
        action = policy.sample()
        reward = (action == y).float()
        loss = -(policy.log_prob(action) * (reward - reward.mean())).mean()
        optimizer.zero_grad()
        loss.backward()
        doctor.step(loss)
        optimizer.step()
    return doctor


def test_a_loss_that_changes_sign_is_no_measure_of_progress():
    doctor = reinforce(network(), 3e-3)
    assert doctor.verdict == "healthy"
    assert "whether it learns, which this loss does not show" in doctor.report()


def test_gradients_that_are_gone_make_the_verdict_unknown():
    for to_none in (True, False):
        model = network()
        doctor, optimizer = st.Doctor(model), torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(20):
            loss = F.cross_entropy(model(torch.randn(8, 8)), torch.zeros(8, dtype=torch.long))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=to_none)
            doctor.step(loss)
        assert doctor.verdict == "unknown"
        (line,) = doctor.report().splitlines()
        assert line.endswith("call step() after backward() and before zero_grad()")


def test_without_a_loss_the_verdict_is_unknown():
    model = network()
    doctor, optimizer = st.Doctor(model), torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(20):
        optimizer.zero_grad()
        F.cross_entropy(model(torch.randn(8, 8)), torch.zeros(8, dtype=torch.long)).backward()
        doctor.step()
        optimizer.step()
    assert doctor.report().splitlines()[0] == "verdict: unknown; no loss was seen: call step(loss)"


@pytest.mark.parametrize(("every", "verdict"), [(5, "verdict: unknown; too few losses were seen"), (4, "verdict: ")])
def test_a_few_losses_are_too_few_for_a_verdict(every, verdict):
    model = network()
    doctor, optimizer = st.Doctor(model), torch.optim.SGD(model.parameters(), lr=0.01)
    for step in range(20):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(torch.randn(8, 8)), torch.zeros(8, dtype=torch.long))
        loss.backward()
        doctor.step(None if step % every else loss)
        optimizer.step()
    line = doctor.report().splitlines()[0]
    assert line.startswith(verdict)
    assert ("unknown" in line) == (every == 5)  # four losses of twenty steps, or five


@pytest.mark.parametrize("by_hand", [True, False])
def test_a_step_by_hand_is_measured_and_no_step_is_not(by_hand):
    model = network()
    doctor, generator = st.Doctor(model), torch.Generator().manual_seed(0)
    for _ in range(6):
        x, y = batch(generator)
        loss = F.cross_entropy(model(x), y)
        model.zero_grad()
        loss.backward()
        doctor.step(loss)
        with torch.no_grad():
            for parameter in model.parameters() if by_hand else ():
                parameter -= 0.25 * parameter.grad
    found = doctor.observations.rms
    assert CLIP not in found
    if not by_hand:
        assert UPDATE not in found  # an optimizer may yet come
        assert "no optimizer was seen" in doctor.report()
        return
    assert found[UPDATE].steps.tolist() == [0, 1, 2, 3, 4]
    gradient = dict(zip(found["gradient"].layers, found["gradient"].values[0], strict=True))
    update = dict(zip(found[UPDATE].layers, found[UPDATE].values[0], strict=True))
    assert update == pytest.approx({layer: 0.25 * rms for layer, rms in gradient.items()}, rel=1e-3)


def test_several_optimizers_and_a_parameter_in_none():
    model = network()
    doctor = st.Doctor(model)
    optimizers = [torch.optim.SGD(model[0].parameters(), lr=0.1), torch.optim.Adam(model[2].parameters(), lr=0.01)]
    generator = torch.Generator().manual_seed(0)
    for _ in range(12):
        x, y = batch(generator)
        loss = F.cross_entropy(model(x), y)
        model.zero_grad()
        loss.backward()
        doctor.step(loss)
        for optimizer in optimizers:
            optimizer.step()
    doctor.detach()
    found = doctor.observations.rms
    assert [layer.partition(".")[2] for layer in found[UPDATE].layers] == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert len(found["gradient"].layers) == 6
    assert [layer.partition(".")[2] for layer in found[MOMENT].layers] == ["2.weight", "2.bias"]
    assert found[UPDATE].steps.tolist() == [*range(10)]


def test_the_gradient_through_time_is_measured_without_being_told():
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.head = nn.RNN(2, 4, batch_first=True), nn.Linear(4, 1)

        def forward(self, x):
            return self.head(self.rnn(x)[0][:, -1])

    model = Net()
    nn.init.constant_(model.rnn.weight_hh_l0, 0.01)
    doctor, optimizer = st.Doctor(model, num_steps=31), torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(31):
        loss = (model(torch.randn(8, 9, 2)) - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        doctor.step(loss)
        optimizer.step()
    waves = doctor.observations.time["rnn.l0"]
    assert waves.steps.tolist() == [0, 1, 3, 9, 19, 29]
    assert waves.values.shape == (6, 9)
    assert "time_vanishing" in {finding.kind for finding in doctor.findings}


@pytest.mark.parametrize("kind", ["recurrent", "plain"])
def test_training_is_bit_identical(kind):
    def run(watched: bool) -> list[torch.Tensor]:
        torch.manual_seed(0)
        model = (
            nn.LSTM(2, 4, num_layers=2, dropout=0.5, batch_first=True)
            if kind == "recurrent"
            else nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 4))
        )
        doctor = st.Doctor(model, on_finding=lambda line: None, skip_nonfinite=True) if watched else None
        optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
        for _ in range(40):
            x = torch.randn(8, 5, 2) if kind == "recurrent" else torch.randn(8, 2)
            outputs = model(x)[0] if kind == "recurrent" else model(x)
            loss = outputs.square().mean()
            optimizer.zero_grad()
            loss.backward()
            if doctor is not None:
                assert doctor.step(loss)
                assert doctor.verdict
            optimizer.step()
        return [*model.parameters(), *model.buffers(), torch.rand(3)]

    assert all(torch.equal(a, b) for a, b in zip(run(True), run(False), strict=True))


@pytest.mark.parametrize(("depth", "steps"), [(2, [*range(10), 19, 29]), (40, [0, 1, 2, 3])], ids=["shallow", "deep"])
def test_deep_networks_are_measured_less_often(depth, steps):
    model = network(depth)
    doctor = st.Doctor(model)
    train(model, torch.optim.SGD(model.parameters(), lr=0.01), doctor, 30)
    found = doctor.observations.rms
    assert found["activation"].steps.tolist() == steps
    assert found["gradient"].steps.tolist() == [*range(30)]
