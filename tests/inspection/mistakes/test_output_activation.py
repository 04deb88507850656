"""Activations at the output and the losses they fit."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.inspection.mistakes.training_loops import batch, kinds, mlp, train

CERTAIN, LIKELY = ("output_activation", "certain"), ("output_activation", "likely")

RELU = "A ReLU is applied to the logits, which are then not negative."
TWICE = "A softmax is at the output, and cross_entropy contains one itself."
UNIFORM = torch.full((8, 3), 1 / 3)


def bce_logits(model, x, y):
    return F.binary_cross_entropy_with_logits(model(x).squeeze(-1), (y > 0).float())


def bce(model, x, y):
    return F.binary_cross_entropy(model(x).squeeze(-1), (y > 0).float())


def ce(model, x, y):
    return F.cross_entropy(model(x), y)


def nll(model, x, y):
    return F.nll_loss(model(x), y)


class Dim(nn.Module):
    """A softmax over the examples."""

    def forward(self, x):
        return x.log_softmax(0)


class Shaped(nn.Module):
    def forward(self, x):
        return x.softmax(-1).float().view(-1, 3).clone()


MISTAKES = {
    "softmax": (mlp(nn.Softmax(1)), ce, CERTAIN, TWICE),
    "reshaped": (mlp(Shaped()), ce, CERTAIN, TWICE),
    "sigmoid": (mlp(nn.Sigmoid()), ce, CERTAIN, "A sigmoid is at the output, and cross_entropy contains one itself."),
    "smoothed": (
        mlp(nn.Softmax(1)),
        lambda m, x, y: F.cross_entropy(m(x), y, label_smoothing=0.1) / 2,
        CERTAIN,
        TWICE,
    ),
    "soft targets": (
        mlp(nn.Softmax(1)),
        lambda m, x, y: F.cross_entropy(m(x), F.one_hot(y, 3).float()),
        CERTAIN,
        TWICE,
    ),
    "twice sigmoid": (
        mlp(nn.Sigmoid(), outputs=1),
        bce_logits,
        CERTAIN,
        "A sigmoid is at the output, and binary_cross_entropy_with_logits contains one itself.",
    ),
    "relu": (mlp(nn.ReLU()), ce, LIKELY, RELU),
    "relu, binary": (mlp(nn.ReLU(), outputs=1), bce_logits, LIKELY, RELU),
    "tanh": (mlp(nn.Tanh()), ce, LIKELY, "A tanh is applied to the logits, which are then between -1 and 1."),
    "logits in nll": (
        mlp(),
        nll,
        CERTAIN,
        "nll_loss takes logarithms of probabilities, and is given the outputs of a layer.",
    ),
    "softmax in nll": (
        mlp(nn.Softmax(1)),
        nll,
        CERTAIN,
        "nll_loss takes logarithms of probabilities, and is given a softmax.",
    ),
    "one softmax": (
        mlp(nn.Softmax(1), outputs=1),
        bce,
        CERTAIN,
        "The softmax at the output is taken over a single value: it is constant.",
    ),
    "one softmax, squared": (
        mlp(nn.Softmax(1), outputs=1),
        lambda m, x, y: F.mse_loss(m(x), y[:, None].float()),
        CERTAIN,
        "The softmax at the output is taken over a single value: it is constant.",
    ),
    "one class": (
        mlp(outputs=1),
        lambda m, x, y: F.cross_entropy(m(x), 0 * y),
        CERTAIN,
        "Cross entropy is taken over a single output, whose probability is always 1: it is constantly 0.",
    ),
    "one class, probabilities": (
        mlp(outputs=1),
        lambda m, x, y: F.cross_entropy(m(x), y[:, None].float()),
        CERTAIN,
        "Cross entropy is taken over a single output, whose probability is always 1: it is constantly 0.",
    ),
    "over the batch": (
        mlp(Dim()),
        nll,
        CERTAIN,
        "The log-softmax at the output is taken over the examples of the batch, not over the classes.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_named(name):
    model, loss, expected, detail = MISTAKES[name]
    found = train(model, loss, num_steps=3)
    assert kinds(found) == [expected]
    assert found[expected].evidence["detail"] == detail
    assert found[expected].first_step == 0


def test_a_softmax_of_a_single_output_goes_where_a_number_is_predicted():
    model, loss, expected, _ = MISTAKES["one softmax, squared"]
    assert train(model, loss, num_steps=2)[expected].evidence["remedy"] == "remove the softmax after the last layer"
    model, loss, expected, _ = MISTAKES["one class"]
    remedy = train(model, loss, num_steps=2)[expected].evidence["remedy"]
    assert remedy.startswith("binary_cross_entropy_with_logits on the single output")


@pytest.mark.parametrize(
    ("scale", "expected"),
    [(1.0, []), (2.0, [CERTAIN]), (100.5, [("target_scale", "certain")])],
)
@pytest.mark.parametrize("is_hidden", [False, True])
def test_targets_of_a_binary_cross_entropy_that_are_no_probabilities(scale, expected, is_hidden):
    def loss(m, x, y):
        found = F.binary_cross_entropy_with_logits(m(x)[:, 0], (y > 0).float() * scale)
        return found + m(x)[:, 1:].square().mean() if is_hidden else found

    found = train(mlp(), loss, num_steps=3)
    assert kinds(found) == expected
    if expected:
        evidence = found[expected[0]].evidence
        assert (evidence["smallest_target"], evidence["largest_target"]) == (0.0, scale)
        assert "takes targets between 0 and 1" in evidence["detail"]


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.attention, self.head = nn.Linear(4, 8), nn.MultiheadAttention(8, 2), nn.Linear(8, 3)

    def forward(self, x):
        h = self.embed(x)
        return self.head(torch.relu(self.attention(h, h, h)[0]))


HEALTHY = {
    "logits": (mlp(), ce),
    "log-softmax": (mlp(nn.LogSoftmax(1)), nll),
    "log-softmax twice": (mlp(nn.LogSoftmax(1)), ce),
    "log of softmax": (mlp(), lambda m, x, y: F.nll_loss(m(x).softmax(1).clamp_min(1e-6).log(), y)),
    "sigmoid and bce": (mlp(nn.Sigmoid(), outputs=1), bce),
    "logits and bce": (mlp(outputs=1), bce_logits),
    "attention": (Attention(), ce),
    "relu and mse": (mlp(nn.ReLU(), outputs=1), lambda m, x, y: F.mse_loss(m(x).squeeze(1), y.float())),
    "tanh and mse": (mlp(nn.Tanh(), outputs=1), lambda m, x, y: ((m(x).squeeze(1) - (y - 1.0)) ** 2).mean()),
    "capped logits": (mlp(), lambda m, x, y: F.cross_entropy(30 * torch.tanh(m(x) / 30), y)),
    "policy": (mlp(), lambda m, x, y: -(torch.distributions.Categorical(logits=m(x)).log_prob(y) * (y - 1.0)).mean()),
    "pooled relu": (
        nn.Sequential(nn.Conv1d(1, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten()),
        lambda m, x, y: F.cross_entropy(m(x[:, None]), y),
    ),
    "distillation": (
        mlp(),
        lambda m, x, y: F.kl_div(m(x).log_softmax(1), UNIFORM, reduction="batchmean"),
    ),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_an_output_that_fits_raises_nothing(name):
    assert kinds(train(*HEALTHY[name], num_steps=12)) == []


@pytest.mark.parametrize(
    ("tail", "targets", "share"),
    [
        (nn.Sigmoid(), lambda y: y * 2.0, 0.5),
        (nn.Tanh(), lambda y: y * 3.0, 0.5),
        (nn.ReLU(), lambda y: y - 2.0, 0.5),
        (nn.Softmax(1), lambda y: y * 3.0, 0.5),
    ],
)
@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_targets_out_of_reach(tail, targets, share, scale):
    model = mlp(tail, outputs=2)

    def loss(m, x, y):
        return F.mse_loss(m(x), targets(y)[:, None].expand(-1, 2)) * scale

    found = train(model, loss, num_steps=3)
    assert CERTAIN in found
    y = targets(batch(0)[1])
    evidence = found[CERTAIN].evidence
    assert evidence["share_outside"] > share - 0.3
    assert evidence["smallest_target"] == pytest.approx(float(y.min()), abs=1e-4)
    assert evidence["largest_target"] == pytest.approx(float(y.max()), abs=1e-4)
