"""Inputs and targets off scale, with the measured mean and spread."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.inspection.mistakes.training_loops import N, batch, cross_entropy, kinds, mlp, train

INPUTS, TARGETS = ("input_scale", "likely"), ("target_scale", "likely")


def inputs(change):
    return lambda step: (change(batch(step)[0]), batch(step)[1])


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x * 50,
        lambda x: x + 100,
        lambda x: x * torch.tensor([1, 1, 1, 1e3]),
        lambda x: x * 1e-4,
        lambda x: 5 + x * 0.01,
    ],
)
def test_inputs_off_scale(change):
    found = train(mlp(), batch=inputs(change), num_steps=5)
    assert kinds(found) == [INPUTS]
    evidence = found[INPUTS].evidence
    x = change(batch(0)[0])
    worst = evidence["feature"]
    assert worst == int(x.square().mean(0).argmax())
    assert evidence["mean"] == pytest.approx(float(x[:, worst].mean()), rel=1e-4)
    assert evidence["std"] == pytest.approx(float(x[:, worst].std(correction=0)), rel=1e-4)
    assert evidence["into"] == "0"


def test_inputs_a_little_off_scale():
    assert kinds(train(mlp(), batch=inputs(lambda x: x * 11), num_steps=5)) == [("input_scale", "possible")]


def test_images_of_bytes_get_their_line():
    pixels = torch.arange(256.0).reshape(8, 1, 32)
    model = nn.Sequential(nn.Conv1d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(120, 3))
    found = train(model, batch=lambda step: (pixels, batch(step)[1]), num_steps=2)
    assert found[INPUTS].evidence["remedy"] == "x = (x - 127.5) / 73.9"
    assert found[INPUTS].evidence["detail"] == "The inputs have mean 128 and standard deviation 73.9."


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(1000, 8), nn.Linear(8, 3)

    def forward(self, *, ids):
        return {"logits": self.head(self.embed(ids).mean(1))}


HEALTHY = {
    "standardized": (mlp(), cross_entropy, batch),
    "in 0..1": (mlp(), cross_entropy, inputs(torch.sigmoid)),
    "one-hot": (mlp(), cross_entropy, inputs(lambda x: F.one_hot(x.argmax(1), 4).float())),
    "a constant feature": (
        mlp(),
        cross_entropy,
        inputs(lambda x: torch.cat([x[:, :3], torch.ones(N, 1)], 1)),
    ),
    "ids": (
        Tokens(),
        lambda m, x, y: F.cross_entropy(m(ids=x)["logits"], y),
        inputs(lambda x: (x.abs() * 300).long().clamp_max(999)),
    ),
    "normalized by the model": (
        nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3)),
        cross_entropy,
        inputs(lambda x: x * 100),
    ),
    "scaled by the model": (
        mlp(),
        lambda m, x, y: cross_entropy(m, x / 100, y),
        inputs(lambda x: x * 100),
    ),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_usual_inputs_raise_nothing(name):
    model, loss, batches = HEALTHY[name]
    assert kinds(train(model, loss, batch=batches)) == []


def test_inputs_that_are_the_same_for_all_examples():
    found = train(mlp(), batch=inputs(torch.zeros_like))
    assert kinds(found) == [("input_scale", "likely")]
    assert found["input_scale", "likely"].evidence["detail"] == "The inputs are the same for all examples."
    once = train(mlp(), batch=lambda s: (batch(s)[0] * (s > 0), batch(s)[1]))
    assert kinds(once) == []


class Mixed(nn.Module):
    """Numbers and token ids."""

    def __init__(self):
        super().__init__()
        self.numbers, self.embed, self.head = nn.Linear(4, 8), nn.Embedding(5, 8), nn.Linear(8, 3)

    def forward(self, x, levels):
        own = torch.zeros(len(x), 4)
        return self.head(torch.relu(self.numbers(x) + self.embed(levels) + 0 * self.numbers(own)))


@pytest.mark.parametrize(("factor", "expected"), [(0.0, [("input_scale", "possible")]), (1.0, [])])
def test_numbers_that_are_the_same_for_all_examples_beside_others_that_are_not(factor, expected):
    def loss(m, x, y):
        return F.cross_entropy(m(factor * x, (x[:, 0].abs() * 9).long() % 5), y)

    found = train(Mixed(), loss)
    assert kinds(found) == expected
    if expected:
        assert found[expected[0]].evidence["detail"] == "The inputs of numbers are the same for all examples."


def test_a_constant_that_the_model_makes_itself_is_no_input():
    class Own(Mixed):
        def forward(self, x, levels):
            return self.head(torch.relu(self.numbers(torch.zeros(len(x), 4)) + self.embed(levels)))

    assert kinds(train(Own(), lambda m, x, y: F.cross_entropy(m(x, (x[:, 0].abs() * 9).long() % 5), y))) == []


def targets(scale, shift):
    return lambda step: (batch(step)[0], batch(step)[0][:, :1] * scale + shift)


LOSSES = {
    "mse": lambda m, x, t: F.mse_loss(m(x), t),
    "sum": lambda m, x, t: F.mse_loss(m(x), t, reduction="sum"),
    "scaled": lambda m, x, t: F.mse_loss(m(x).squeeze(1), t.squeeze(1)) / 8,
    "by hand": lambda m, x, t: ((t - m(x)) ** 2).mean(),
    "product": lambda m, x, t: ((d := m(x) - t) * d).sum() * 0.1,
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(("scale", "shift"), [(1.0, 300.0), (100.0, 0.0)])
def test_targets_off_scale(name, scale, shift):
    model = mlp(outputs=1)
    optimizer = torch.optim.SGD(model.parameters(), 1e-6)
    found = train(model, LOSSES[name], optimizer=optimizer, batch=targets(scale, shift), num_steps=2)
    assert kinds(found) == [TARGETS]
    t = targets(scale, shift)(0)[1]
    evidence = found[TARGETS].evidence
    assert evidence["mean"] == pytest.approx(float(t.mean()), rel=1e-3)
    assert evidence["std"] == pytest.approx(float(t.std(correction=0)), rel=1e-3)


ABSOLUTE = {
    "l1": lambda m, x, t: F.l1_loss(m(x), t),
    "smooth": lambda m, x, t: F.smooth_l1_loss(m(x), t, beta=0.5),
    "huber": lambda m, x, t: F.huber_loss(m(x), t, delta=2.0),
}


@pytest.mark.parametrize("name", ABSOLUTE)
@pytest.mark.parametrize(("scale", "shift"), [(1.0, 300.0), (100.0, 0.0)])
def test_targets_off_scale_under_absolute_errors(name, scale, shift):
    model = mlp(outputs=1)
    optimizer = torch.optim.SGD(model.parameters(), 1e-6)
    found = train(model, ABSOLUTE[name], optimizer=optimizer, batch=targets(scale, shift), num_steps=2)
    assert kinds(found) == [TARGETS]
    t, evidence = targets(scale, shift)(0)[1], found[TARGETS].evidence
    if name == "l1":
        error = (mlp(outputs=1)(batch(0)[0]) - t).abs().mean().item()
        assert evidence["mean_absolute_error"] == pytest.approx(error, rel=0.02)
    else:
        assert evidence["mean"] == pytest.approx(float(t.mean()), rel=1e-3)
        assert evidence["remedy"] == f"y = (y - {float(t.mean()):.4g}) / {float(t.std(correction=0)):.4g}"
    assert kinds(train(mlp(outputs=1), ABSOLUTE[name], batch=targets(5.0, 0.0))) == []


def test_a_scaled_gradient_gives_the_same_targets():
    model = mlp(outputs=1)

    def loss(m, x, t):
        value = F.mse_loss(m(x), t)
        value.register_hook(lambda g: g * 1024)  # as a loss scaler does
        return value

    optimizer = torch.optim.SGD(model.parameters(), 1e-9)
    found = train(model, loss, optimizer=optimizer, batch=targets(100.0, 0.0), num_steps=2)
    t = targets(100.0, 0.0)(0)[1]
    assert found[TARGETS].evidence["std"] == pytest.approx(float(t.std(correction=0)), rel=1e-3)


@pytest.mark.parametrize(("weight", "expected"), [(0.0, [TARGETS]), (0.1, [])])
def test_targets_of_one_of_several_losses_may_have_any_scale(weight, expected):
    """As those of the value function in a policy gradient."""

    def loss(m, x, t):
        found = 0.5 * F.mse_loss(m(x), t)
        return found + weight * m(x).square().mean() if weight else found

    optimizer = torch.optim.SGD((model := mlp(outputs=1)).parameters(), 1e-9)
    assert kinds(train(model, loss, optimizer=optimizer, batch=targets(1000.0, 0.0), num_steps=3)) == expected


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (5.0, 0.0), (2.0, 3.0)])
def test_usual_targets_raise_nothing(scale, shift):
    assert kinds(train(mlp(outputs=1), LOSSES["mse"], batch=targets(scale, shift))) == []


def test_a_network_that_reaches_its_targets_raises_nothing():
    model = mlp(outputs=1)
    nn.init.constant_(model[2].bias, 100.0)
    optimizer = torch.optim.SGD(model.parameters(), 1e-6)
    assert kinds(train(model, LOSSES["mse"], optimizer=optimizer, batch=targets(1.0, 100.0))) == []


class Contexts(nn.Module):
    """As a temporal fusion transformer without static variables: a layer is given zeros that the model makes itself."""

    def __init__(self):
        super().__init__()
        self.vector = nn.Parameter(torch.ones(4))
        self.context, self.body = nn.Linear(2, 8, bias=False), nn.Linear(4, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, batch):
        x = batch["x"]
        return self.head((self.body(x * self.vector) + self.context(torch.zeros(len(x), 2))).relu())


@pytest.mark.parametrize(("change", "expected"), [(lambda x: x, []), (torch.zeros_like, [("input_scale", "likely")])])
def test_zeros_that_the_model_makes_itself_are_no_inputs(change, expected):
    torch.manual_seed(0)
    found = train(Contexts(), lambda m, x, y: F.cross_entropy(m({"x": x}), y), batch=inputs(change))
    assert kinds(found) == expected
