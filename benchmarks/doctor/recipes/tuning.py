"""The references on which thresholds are chosen."""

from __future__ import annotations

from benchmarks.doctor.case import Network, Start
from benchmarks.doctor.recipes.recipe import CLIPPED, keeping, recipe

FEED_FORWARD = [
    recipe("circles-mlp4-relu", "circles", Network("mlp", 4, 24), num_steps=250),
    recipe("digits-mlp6-relu", "digits", Network("mlp", 6, 48), num_steps=250),
    recipe("moons-mlp10-relu", "moons", Network("mlp", 10, 32), num_steps=300, lr=2e-3),
    recipe("blobs-mlp12-elu", "blobs", Network("mlp", 12, 32, "elu"), num_steps=250, lr=1e-3),
    recipe("digits-mlp20-batch", "digits", Network("mlp", 20, 24, "relu", "batch", "add"), num_steps=200),
    recipe("moons-mlp24-add", "moons", Network("mlp", 24, 16, "tanh", "layer", "add"), num_steps=200),
    recipe("digits-cnn4-relu", "digits", Network("cnn", 4, 12), num_steps=200),
    recipe("blobs-mlp5-gelu", "blobs", Network("mlp", 5, 32, "gelu"), num_steps=200),
    recipe("moons-mlp6-elu", "moons", Network("mlp", 6, 24, "elu"), num_steps=250),
    recipe("digits-mlp8-tanh", "digits", Network("mlp", 8, 40, "tanh"), num_steps=250, lr=2e-3),
    recipe("blobs-mlp9-relu", "blobs", Network("mlp", 9, 32), num_steps=200, lr=2e-3),
    recipe("digits-mlp14-gelu-add", "digits", Network("mlp", 14, 32, "gelu", "layer", "add"), num_steps=200),
    recipe("digits-cnn5-gelu", "digits", Network("cnn", 5, 10, "gelu"), num_steps=200),
    recipe("digits-cnn6-tanh-batch", "digits", Network("cnn", 6, 10, "tanh", "batch"), num_steps=150),
]
RECURRENT = [
    recipe("copy20-rnn", "copy-20", Network("rnn", 1, 32, "tanh"), lr=1e-3, **CLIPPED),
    recipe("rows8-irnn", "digits", Network("rnn", 1, 32, "relu"), Start(gain=0.3), lr=2e-3, **CLIPPED),
    recipe("copy50-lstm", "copy-50", Network("lstm", 1, 24), keeping(50), lr=5e-3, **CLIPPED),
    recipe("copy25-gru", "copy-25", Network("gru", 1, 24), keeping(25), lr=1e-2, num_steps=150, **CLIPPED),
    recipe("copy200-lstm", "copy-200", Network("lstm", 1, 16), keeping(800), lr=1e-2, num_steps=200, **CLIPPED),
    recipe("adding20-gru", "adding-20", Network("gru", 1, 32), keeping(20, 1.0), lr=1e-2, num_steps=300, **CLIPPED),
    recipe("pixels64-lstm", "pixels-64", Network("lstm", 1, 32), keeping(16, 1.0), lr=1e-2, **CLIPPED),
    recipe("text20-gru", "text-20", Network("gru", 1, 48), lr=1e-2, num_steps=250, **CLIPPED),
    recipe("copy15-irnn", "copy-15", Network("rnn", 1, 32, "relu"), Start(gain=0.3), lr=1e-3, **CLIPPED),
    recipe("rows8-rnn", "digits", Network("rnn", 1, 40, "tanh"), lr=2e-3, **CLIPPED),
    recipe("copy35-gru", "copy-35", Network("gru", 1, 24), keeping(35), lr=1e-2, num_steps=150, **CLIPPED),
    recipe("rows8-gru2", "digits", Network("gru", 2, 32), Start(gate_bias=1.0), lr=5e-3, **CLIPPED),
    recipe("text16-lstm", "text-16", Network("lstm", 1, 48), Start(gate_bias=1.0), lr=1e-2, **CLIPPED),
]
ATTENTION = [
    recipe("rows8-transformer2", "digits", Network("transformer", 2, 32, "gelu", "layer", "add"), num_steps=200),
    recipe(
        "copy24-transformer2",
        "copy-24",
        Network("transformer", 2, 24, "gelu", "layer", "add"),
        num_steps=150,
        batch_size=32,
    ),
    recipe(
        "rows8-transformer3",
        "digits",
        Network("transformer", 3, 32, "relu", "layer", "add"),
        num_steps=150,
    ),
    recipe(
        "text16-transformer3",
        "text-16",
        Network("transformer", 3, 32, "gelu", "layer", "add"),
        num_steps=200,
        batch_size=32,
        lr=5e-3,
    ),
]
RECIPES = [*FEED_FORWARD, *RECURRENT, *ATTENTION]
