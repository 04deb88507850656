"""rms(W) √fan_in of usual initializations, and what does not count."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from stabletrain.torch_tools.weight_gain import weight_gain

INITIALIZED = {
    "linear": (lambda: nn.Linear(400, 300), 3**-0.5),
    "convolution": (lambda: nn.Conv2d(30, 40, 3), 3**-0.5),
    "lstm": (lambda: nn.LSTM(256, 256, 2), 3**-0.5),
}


def scaled(model: nn.Module, factor: float) -> nn.Module:
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(factor)
    return model


@pytest.mark.parametrize("factor", [1.0, 10.0])
@pytest.mark.parametrize("name", INITIALIZED)
def test_torch_s_defaults(name, factor):
    make, expected = INITIALIZED[name]
    assert weight_gain(scaled(make(), factor)) == pytest.approx(factor * expected, rel=0.02)


def test_he_and_orthogonal():
    he, orthogonal = nn.Linear(400, 300), nn.Linear(100, 100)
    nn.init.kaiming_normal_(he.weight)
    nn.init.orthogonal_(orthogonal.weight)
    assert weight_gain(he) == pytest.approx(2**0.5, rel=0.02)
    assert weight_gain(orthogonal) == pytest.approx(1.0)


def test_embeddings_frozen_weights_zeros_and_vectors_do_not_count():
    layers = nn.ModuleList([nn.Embedding(50, 400), nn.LayerNorm(4), nn.Linear(9, 9), scaled(nn.Linear(8, 8), 100)])
    nn.init.zeros_(layers[2].weight)
    layers[3].requires_grad_(False)
    assert weight_gain(layers) is None
    layers.append(nn.Linear(400, 300))
    assert weight_gain(layers) == pytest.approx(3**-0.5, rel=0.02)
