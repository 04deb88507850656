"""Targets that have nothing to do with the inputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from stabletrain.inspection.inspections import Inspections
from stabletrain.inspection.inspector import StepView
from stabletrain.inspection.mistakes.labels import LabelInspector
from stabletrain.inspection.mistakes.relation import are_related

N, FEATURES = 32, 6
MIXING = torch.randn(FEATURES, 3, generator=torch.Generator().manual_seed(5))


def examples(step, is_shuffled):
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(N, FEATURES, generator=generator)
    scores = x @ MIXING
    order = torch.randperm(N, generator=generator) if is_shuffled else torch.arange(N)
    return x, scores[order]


def network(outputs):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(FEATURES, 16), nn.ReLU(), nn.Linear(16, outputs))


LOSSES = {
    "classes": (3, lambda z, s: F.cross_entropy(z, s.argmax(1))),
    "binary": (3, lambda z, s: F.binary_cross_entropy_with_logits(z, (s > 0).float())),
    "probabilities": (3, lambda z, s: F.binary_cross_entropy(z.sigmoid(), (s > 0).float())),
    "numbers": (3, F.mse_loss),
    "huber": (1, lambda z, s: F.huber_loss(z, s[:, :1])),
    "smooth": (1, lambda z, s: F.smooth_l1_loss(z.squeeze(1), s[:, 0]) / 4),
}


def train(loss_of, outputs, batches, *, model=None, num_steps=106, lr=0.1, optimizer=torch.optim.SGD):
    model = model or network(outputs)
    optimizer = optimizer(model.parameters(), lr)
    inspections, found = Inspections(model, [LabelInspector]), []
    for step in range(num_steps):
        x, scores = batches(step)
        loss = loss_of(model(x), scores)
        optimizer.zero_grad()
        loss.backward()
        found += inspections.step(StepView(step, model, loss))
        optimizer.step()
    inspections.detach()
    return found


@pytest.mark.parametrize("name", LOSSES)
def test_shuffled_targets_are_a_possibility(name):
    outputs, loss_of = LOSSES[name]
    [notice] = train(loss_of, outputs, lambda step: examples(step, is_shuffled=True))
    assert (notice.kind, notice.evidence["certainty"], notice.first_step) == ("no_progress", "possible", 0)
    assert notice.evidence["share_explained"] < 0.05
    assert "The targets may have nothing to do with the inputs" in notice.evidence["detail"]


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("lr", [0.1, 0.0])
def test_targets_that_follow_from_the_inputs_raise_nothing_even_if_nothing_is_learned(name, lr):
    outputs, loss_of = LOSSES[name]
    assert train(loss_of, outputs, lambda step: examples(step, is_shuffled=False), lr=lr) == []


def test_of_two_losses_the_one_without_a_relation_is_named():
    def both(z, s):
        return F.cross_entropy(z[:, :3], s.argmax(1)) + 0.5 * F.mse_loss(z[:, 3:], s.roll(1, 0)[:, :1])

    [notice] = train(both, 4, lambda step: examples(step, is_shuffled=False))
    assert notice.evidence["function"] == "mse_loss"
    assert "one of 2 terms of the loss" in notice.evidence["detail"]


def test_targets_that_the_outputs_learn_all_the_same_raise_nothing():
    """A parity, which neither neighbors nor correlations show."""

    def bits(step):
        x = torch.randint(2, (N, FEATURES), generator=torch.Generator().manual_seed(step)).float() * 2 - 1
        return x, (x[:, :2].prod(1, keepdim=True) + 0 * x[:, :1]).repeat(1, 3)

    assert train(F.mse_loss, 3, bits, lr=0.3) == []


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(10, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.embed((x.abs() * 3).long().clamp_max(9)).mean(1))


class Sequence(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.head = nn.RNN(1, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.rnn(x[:, :, None])[0][:, -1])


@pytest.mark.parametrize("model", [Tokens(), Sequence()])
def test_tokens_and_sequences_are_left_out(model):
    assert train(LOSSES["classes"][1], 3, lambda step: examples(step, is_shuffled=True), model=model) == []


class Pair(nn.Module):
    """Compares the example with another one."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(FEATURES, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.body(x) * self.body(x.flip(0)))


def test_pairs_are_left_out():
    assert train(LOSSES["classes"][1], 3, lambda step: examples(step, is_shuffled=True), model=Pair()) == []


@pytest.mark.parametrize(("is_shuffled", "expected"), [(True, ["no_progress"]), (False, [])])
def test_classes_of_pixels(is_shuffled, expected):
    def pixels(step):
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(N, 1, 5, 5, generator=generator)
        y = (x[:, 0] > 0).long()
        return x, y[torch.randperm(N, generator=generator)] if is_shuffled else y

    torch.manual_seed(0)
    found = train(F.cross_entropy, 2, pixels, model=nn.Conv2d(1, 2, 3, padding=1))
    assert [notice.kind for notice in found] == expected


def test_a_contrastive_loss_has_no_targets():
    def contrast(z, _):
        return F.cross_entropy(z @ torch.randn(3, N), torch.arange(N))

    assert train(contrast, 3, lambda step: examples(step, is_shuffled=True), lr=1e-6) == []


@pytest.mark.parametrize(("is_blank", "expected"), [(True, ["input_scale"]), (False, [])])
def test_features_that_are_the_same_for_all_examples_are_what_is_wrong(is_blank, expected):
    def batches(step):
        x, scores = examples(step, False)
        time = torch.rand(N, 2, generator=torch.Generator().manual_seed(step))
        return torch.cat([0 * x[:, :4] if is_blank else x[:, :4], time], 1), scores[:, :1] - x[:, 4:] @ MIXING[4:, :1]

    found = train(F.mse_loss, 1, batches)
    assert [notice.kind for notice in found] == expected
    if expected:
        assert found[0].evidence["share_constant"] == pytest.approx(4 / 6, abs=1e-3)


def test_examples_that_come_again_with_the_same_wrong_target_are_memorized():
    x, scores = (torch.cat(parts) for parts in zip(*(examples(step, True) for step in range(20)), strict=True))

    def drawn(step):
        rows = torch.randint(len(x), (N,), generator=torch.Generator().manual_seed(step))
        return x[rows], scores[rows]

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(FEATURES, 200), nn.ReLU(), nn.Linear(200, 3))
    [notice] = train(LOSSES["classes"][1], 3, drawn, model=model, lr=0.02, optimizer=torch.optim.Adam)
    assert notice.evidence["memorizes"] is True
    assert "perhaps by memorizing single examples" in notice.evidence["detail"]
    scores = torch.cat([examples(step, False)[1] for step in range(20)])
    assert train(LOSSES["classes"][1], 3, drawn, model=network(3), lr=0.5) == []


def test_relations_of_numbers():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(300, 50))
    noise = generator.normal(size=(300, 1))
    assert are_related(x, noise) is False
    assert are_related(x, x[:, :1] + 2 * noise), "a correlation with one input of many"
    assert are_related(x[:, :2], np.sign(x[:, :1] * x[:, 1:2])), "neighbors are alike"
    assert are_related(x[:50], noise[:50]) is None
    assert are_related(x, np.ones((300, 1))) is None
