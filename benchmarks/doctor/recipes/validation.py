"""The references of the first held-out part, whose failures showed which signs were missing."""

from __future__ import annotations

from benchmarks.doctor.case import Network, Start
from benchmarks.doctor.recipes.recipe import CLIPPED, keeping, recipe

FEED_FORWARD = [
    recipe("moons-mlp4-tanh", "moons", Network("mlp", 4, 24, "tanh"), num_steps=250),
    recipe("blobs-mlp6-relu", "blobs", Network("mlp", 6, 24), num_steps=200),
    recipe("circles-mlp8-tanh", "circles", Network("mlp", 8, 24, "tanh"), num_steps=300),
    recipe("digits-mlp10-relu", "digits", Network("mlp", 10, 48), num_steps=300, lr=2e-3),
    recipe("digits-mlp12-tanh", "digits", Network("mlp", 12, 48, "tanh"), num_steps=250, lr=1e-3),
    recipe("circles-mlp16-gelu-add", "circles", Network("mlp", 16, 24, "gelu", "layer", "add"), num_steps=200),
    recipe("blobs-mlp30-add", "blobs", Network("mlp", 30, 16, "tanh", "layer", "add"), num_steps=150),
    recipe("digits-cnn6-batch", "digits", Network("cnn", 6, 8, "relu", "batch"), num_steps=150),
    recipe("digits-cnn8-add", "digits", Network("cnn", 8, 8, "relu", "batch", "add"), num_steps=150),
]
RECURRENT = [
    recipe("copy40-rnn", "copy-40", Network("rnn", 1, 32, "tanh"), lr=2e-3, **CLIPPED),
    recipe("copy30-irnn", "copy-30", Network("rnn", 1, 32, "relu"), Start(gain=0.3), lr=1e-3, **CLIPPED),
    recipe("copy100-lstm", "copy-100", Network("lstm", 1, 24), keeping(400), lr=1e-2, num_steps=250, **CLIPPED),
    recipe("copy30-gru", "copy-30", Network("gru", 1, 24), keeping(30), lr=1e-2, num_steps=150, **CLIPPED),
    recipe(
        "adding25-lstm",
        "adding-25",
        Network("lstm", 1, 32),
        keeping(25, 1.0),
        lr=1e-2,
        num_steps=500,
        **CLIPPED,
    ),
    recipe("rows8-lstm2", "digits", Network("lstm", 2, 32), Start(gate_bias=1.0), lr=5e-3, **CLIPPED),
    recipe("text32-lstm", "text-32", Network("lstm", 1, 48), Start(gate_bias=1.0), lr=1e-2, **CLIPPED),
]
ATTENTION = [
    recipe(
        "rows8-transformer4",
        "digits",
        Network("transformer", 4, 24, "gelu", "layer", "add"),
        num_steps=150,
    ),
    recipe(
        "text24-transformer2",
        "text-24",
        Network("transformer", 2, 32, "gelu", "layer", "add"),
        num_steps=250,
        batch_size=32,
        lr=1e-2,
    ),
]
RECIPES = [*FEED_FORWARD, *RECURRENT, *ATTENTION]
