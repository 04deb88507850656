"""The references of the second held-out part: reported on once, then its failures were read."""

from __future__ import annotations

from benchmarks.doctor.case import Network, Start
from benchmarks.doctor.recipes.recipe import ADD, CLIPPED, keeping, recipe

FEED_FORWARD = [
    recipe("circles-mlp5-relu", "circles", Network("mlp", 5, 24), num_steps=250),
    recipe("moons-mlp5-gelu", "moons", Network("mlp", 5, 24, "gelu"), num_steps=250),
    recipe("blobs-mlp7-tanh", "blobs", Network("mlp", 7, 24, "tanh"), num_steps=200),
    recipe("digits-mlp7-elu", "digits", Network("mlp", 7, 48, "elu"), num_steps=250, lr=2e-3),
    recipe("circles-mlp7-gelu", "circles", Network("mlp", 7, 24, "gelu"), num_steps=300),
    recipe("moons-mlp9-relu", "moons", Network("mlp", 9, 32), num_steps=300, lr=2e-3),
    recipe("digits-mlp9-gelu", "digits", Network("mlp", 9, 48, "gelu"), num_steps=300, lr=2e-3),
    recipe("blobs-mlp11-relu", "blobs", Network("mlp", 11, 32), num_steps=250, lr=1e-3),
    recipe("digits-mlp11-elu", "digits", Network("mlp", 11, 48, "elu"), num_steps=250, lr=1e-3),
    recipe("circles-mlp18-add", "circles", Network("mlp", 18, 24, "relu", *ADD), num_steps=200),
    recipe("digits-mlp18-batch", "digits", Network("mlp", 18, 24, "gelu", "batch", "add"), num_steps=200),
    recipe("blobs-mlp26-add", "blobs", Network("mlp", 26, 16, "gelu", *ADD), num_steps=150),
    recipe("moons-mlp20-add", "moons", Network("mlp", 20, 16, "relu", *ADD), num_steps=200),
    recipe("digits-cnn4-tanh", "digits", Network("cnn", 4, 12, "tanh"), num_steps=200),
    recipe("digits-cnn7-batch", "digits", Network("cnn", 7, 8, "relu", "batch"), num_steps=150),
    recipe("digits-cnn9-add", "digits", Network("cnn", 9, 8, "gelu", "batch", "add"), num_steps=150),
]
SHORT, LATE = {"num_steps": 150, **CLIPPED}, Start(gate_bias=1.0)
RECURRENT = [
    recipe("copy25-rnn", "copy-25", Network("rnn", 1, 32, "tanh"), lr=1e-3, **CLIPPED),
    recipe("copy30-rnn", "copy-30", Network("rnn", 1, 32, "tanh"), lr=2e-3, **CLIPPED),
    recipe("copy22-irnn", "copy-22", Network("rnn", 1, 32, "relu"), Start(gain=0.3), lr=1e-3, **CLIPPED),
    recipe("rows8-irnn2", "digits", Network("rnn", 2, 32, "relu"), Start(gain=0.3), lr=2e-3, **CLIPPED),
    recipe("copy60-lstm", "copy-60", Network("lstm", 1, 24), keeping(60), lr=5e-3, **CLIPPED),
    recipe("copy120-lstm", "copy-120", Network("lstm", 1, 24), keeping(480), lr=1e-2, **CLIPPED),
    recipe("copy28-gru", "copy-28", Network("gru", 1, 24), keeping(28), lr=1e-2, **SHORT),
    recipe("copy40-gru", "copy-40", Network("gru", 1, 24), keeping(40), lr=1e-2, **SHORT),
    recipe("adding22-gru", "adding-22", Network("gru", 1, 32), keeping(22, 1.0), lr=1e-2, **CLIPPED),
    recipe("rows8-lstm", "digits", Network("lstm", 1, 40), LATE, lr=5e-3, **CLIPPED),
    recipe("pixels64-gru", "pixels-64", Network("gru", 1, 32), keeping(16, 1.0), lr=1e-2, **CLIPPED),
    recipe("text18-gru", "text-18", Network("gru", 1, 48), lr=1e-2, num_steps=250, **CLIPPED),
    recipe("text28-lstm", "text-28", Network("lstm", 1, 48), LATE, lr=1e-2, **CLIPPED),
]
SMALL, WIDE = Network("transformer", 5, 24, "gelu", *ADD), Network("transformer", 2, 40, "gelu", *ADD)
COPYING = Network("transformer", 3, 24, "gelu", *ADD)
ATTENTION = [
    recipe("rows8-transformer5", "digits", SMALL, num_steps=150),
    recipe("copy20-transformer3", "copy-20", COPYING, num_steps=150, batch_size=32),
    recipe("text20-transformer2", "text-20", WIDE, num_steps=250, batch_size=32, lr=1e-2),
]
RECIPES = [*FEED_FORWARD, *RECURRENT, *ATTENTION]
