"""Evaluation mode in training, and batch norm of single examples."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.inspection.mistakes.training_loops import batch, cross_entropy, kinds, train

CERTAIN, POSSIBLE, HARMLESS = (("wrong_mode", certainty) for certainty in ("certain", "possible", "harmless"))


def normalized(norm=None):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 20), norm or nn.BatchNorm1d(20), nn.ReLU(), nn.Linear(20, 3))


def updated(model):
    model(batch(0)[0])
    return model


def in_eval_from(step):
    count = iter(range(100))

    def loss(m, x, y):
        if next(count) == step:
            m.eval()
        return cross_entropy(m, x, y)

    return loss


def test_a_new_model_in_evaluation_mode():
    found = train(normalized().eval())
    assert kinds(found) == [CERTAIN]
    assert found[CERTAIN].evidence["batch_norm"] == ["1"]
    assert found[CERTAIN].first_step == 0


def test_a_model_left_in_evaluation_mode_after_a_validation():
    found = train(normalized(), in_eval_from(7))
    assert kinds(found) == [CERTAIN]
    assert found[CERTAIN].first_step == 7
    assert found[CERTAIN].evidence["detail"] == "The model is trained in evaluation mode since step 7."
    assert kinds(train(normalized(nn.Dropout(0.5)), in_eval_from(7))) == [POSSIBLE]


def test_a_model_with_statistics_may_be_tuned_in_evaluation_mode():
    assert kinds(train(updated(normalized()).eval())) == [POSSIBLE]


def test_what_has_no_batch_norm_is_harmless():
    assert [*train(normalized(nn.Dropout(0.5)).eval())] == [HARMLESS]
    assert train(normalized(nn.LayerNorm(20)).eval()) == {}


def test_batch_norm_alone_in_evaluation_mode():
    model = normalized()
    model[1].eval()
    assert kinds(train(model)) == [CERTAIN]
    model = updated(normalized())
    model[1].eval()
    assert train(model) == {}


def test_frozen_batch_norm():
    model = normalized()
    model[1].eval().requires_grad_(False)
    assert kinds(train(model)) == []


def test_a_validation_between_the_steps():
    def loss(m, x, y):
        m.eval()
        with torch.no_grad():
            m(x)
        m.train()
        return cross_entropy(m, x, y)

    assert train(normalized(), loss) == {}


@pytest.mark.parametrize(("size", "expected"), [(1, [CERTAIN]), (2, [])])
def test_batch_norm_of_single_examples(size, expected):
    model = nn.Sequential(nn.Conv1d(1, 4, 2), nn.BatchNorm1d(4), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3))
    found = train(model, lambda m, x, y: cross_entropy(m, x[:size, None], y[:size]))
    assert kinds(found) == expected
    if expected:
        assert found[CERTAIN].evidence["output_shape"] == [1, 4, 3]


def test_a_single_example_now_and_then():
    model = nn.Sequential(nn.Conv1d(1, 4, 2), nn.BatchNorm1d(4), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3))
    count = iter(range(100))

    def loss(m, x, y):
        size = 8 if next(count) == 1 else 1
        return cross_entropy(m, x[:size, None], y[:size])

    assert train(model, loss) == {}
