"""The last activation beside the kind of the labels: one of several classes, several at once, or yes and no."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.inspection.mistakes.training_loops import batch, kinds, mlp, train

CERTAIN, POSSIBLE = ("output_activation", "certain"), ("output_activation", "possible")
SEVERAL = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])


def with_targets(change, single: bool = False):
    """Batches whose targets follow from the class of each example."""
    return lambda step: (batch(step)[0], change(batch(step)[1]).reshape(8, 1 if single else -1))


one_hot = with_targets(lambda y: F.one_hot(y, 3).float())
several = with_targets(lambda y: SEVERAL[y])
binary = with_targets(lambda y: (y > 0).float(), single=True)
numbers = with_targets(lambda y: y.float(), single=True)


def loss_with(function, activation=lambda z: z):
    return lambda model, x, y: function(activation(model(x)), y)


def by_hand(p: Tensor, y: Tensor) -> Tensor:
    p = p.clamp(1e-7, 1 - 1e-7)
    return -(y * p.log() + (1 - y) * (1 - p).log()).mean()


@pytest.mark.parametrize(
    ("tail", "loss", "batches", "expected"),
    [
        ([nn.Softmax(-1)], F.mse_loss, several, [CERTAIN]),
        ([nn.Softmax(-1)], F.binary_cross_entropy, several, [CERTAIN]),
        ([], F.cross_entropy, several, [POSSIBLE]),
        ([nn.Sigmoid()], F.binary_cross_entropy, several, []),
        ([nn.Softmax(-1)], F.binary_cross_entropy, one_hot, []),
        ([], F.cross_entropy, one_hot, []),
        ([nn.Softmax(-1)], F.mse_loss, one_hot, [POSSIBLE]),  # slow only
        ([], F.mse_loss, one_hot, []),
    ],
)
def test_outputs_of_several_classes(tail, loss, batches, expected):
    assert kinds(train(mlp(*tail), loss_with(loss), batch=batches, num_steps=4)) == expected


@pytest.mark.parametrize(
    ("tail", "loss", "batches", "expected"),
    [
        ([nn.Sigmoid()], F.mse_loss, binary, [POSSIBLE]),
        ([nn.Sigmoid()], F.binary_cross_entropy, binary, []),
        ([nn.Sigmoid()], by_hand, binary, []),
        ([nn.ReLU()], by_hand, binary, [CERTAIN]),
        ([nn.Tanh()], by_hand, binary, [CERTAIN]),
        ([], by_hand, binary, [CERTAIN]),
        ([nn.Sigmoid()], by_hand, numbers, [CERTAIN]),
        ([nn.Sigmoid()], F.mse_loss, numbers, [CERTAIN]),
        ([], F.mse_loss, numbers, []),  # they may be counts
    ],
)
def test_a_single_output(tail, loss, batches, expected):
    assert kinds(train(mlp(*tail, outputs=1), loss_with(loss), batch=batches, num_steps=4)) == expected


def test_the_loss_that_fits_the_labels_is_named():
    found = train(mlp(nn.Softmax(-1)), loss_with(F.mse_loss), batch=several, num_steps=2)
    assert "binary_cross_entropy_with_logits" in found[CERTAIN].evidence["remedy"]
    found = train(mlp(nn.Softmax(-1)), loss_with(F.mse_loss), batch=one_hot, num_steps=2)
    assert found[POSSIBLE].evidence["remedy"].startswith("torch.nn.functional.cross_entropy(model(x), y) on logits")
    found = train(mlp(nn.Sigmoid(), outputs=1), loss_with(F.mse_loss), batch=numbers, num_steps=2)
    assert found[CERTAIN].evidence["remedy"].endswith("one output per class")
    shares = with_targets(lambda y: SEVERAL[y] * 0.7)
    found = train(mlp(nn.Softmax(-1)), loss_with(F.mse_loss), batch=shares, num_steps=2)
    assert found[CERTAIN].evidence["remedy"] == "remove the softmax after the last layer", "these are no labels"


def test_shares_of_many_items_fit_a_softmax():
    many = with_targets(lambda y: torch.ones(8, 200))
    assert kinds(train(mlp(outputs=200), loss_with(F.cross_entropy), batch=many, num_steps=2)) == []


def test_logarithms_of_features_are_no_cross_entropy():
    class Logs(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 3)

        def forward(self, x):
            return self.second((self.first(x).relu() + 1).log() * torch.ones(8))

    assert kinds(train(Logs(), num_steps=2)) == []
