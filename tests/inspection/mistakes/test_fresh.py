"""Weights of new layers are told from others."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from stabletrain.inspection.mistakes.fresh import is_fresh

LAYERS = {
    "linear": lambda: nn.Linear(8, 8),
    "wide": lambda: nn.Linear(200, 100),
    "conv": lambda: nn.Conv2d(3, 8, 3),
    "embedding": lambda: nn.Embedding(50, 16),
    "lstm": lambda: nn.LSTM(4, 16),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("seed", range(5))
def test_a_new_layer_is_fresh_and_a_trained_one_is_not(name, seed):
    torch.manual_seed(seed)
    layer = LAYERS[name]()
    assert is_fresh(layer) is True
    with torch.no_grad():
        for p in layer.parameters():
            p.mul_(1.5)
    assert is_fresh(layer) is False


def test_of_others_it_is_not_known():
    assert [is_fresh(m) for m in (nn.LayerNorm(8), nn.Linear(2, 2), nn.Embedding(2, 2), nn.ReLU())] == [None] * 4
    layer = nn.Linear(64, 64)
    nn.init.kaiming_normal_(layer.weight)
    assert is_fresh(layer) is False
