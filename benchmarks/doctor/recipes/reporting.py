"""The references of the reporting part."""

from __future__ import annotations

from benchmarks.doctor.case import Network, Start
from benchmarks.doctor.recipes.recipe import ADD, CLIPPED, keeping, recipe

SHORT, LATE = {"num_steps": 150, **CLIPPED}, Start(gate_bias=1.0)
FEED_FORWARD = [
    recipe("circles-mlp4-elu", "circles", Network("mlp", 4, 32, "elu"), num_steps=250),
    recipe("circles-mlp6-tanh", "circles", Network("mlp", 6, 28, "tanh"), num_steps=250),
    recipe("circles-mlp9-relu", "circles", Network("mlp", 9, 32), num_steps=300, lr=2e-3),
    recipe("circles-mlp14-add", "circles", Network("mlp", 14, 24, "tanh", *ADD), num_steps=200),
    recipe("circles-mlp22-batch", "circles", Network("mlp", 22, 20, "relu", "batch", "add"), num_steps=200),
    recipe("moons-mlp7-relu", "moons", Network("mlp", 7, 28), num_steps=250),
    recipe("moons-mlp8-elu", "moons", Network("mlp", 8, 24, "elu"), num_steps=300, lr=2e-3),
    recipe("moons-mlp12-gelu", "moons", Network("mlp", 12, 32, "gelu"), num_steps=300, lr=2e-3),
    recipe("moons-mlp16-add", "moons", Network("mlp", 16, 20, "gelu", *ADD), num_steps=200),
    recipe("blobs-mlp4-tanh", "blobs", Network("mlp", 4, 28, "tanh"), num_steps=200),
    recipe("blobs-mlp8-elu", "blobs", Network("mlp", 8, 28, "elu"), num_steps=200, lr=2e-3),
    recipe("blobs-mlp10-relu", "blobs", Network("mlp", 10, 32), num_steps=250, lr=2e-3),
    recipe("blobs-mlp20-add", "blobs", Network("mlp", 20, 16, "relu", *ADD), num_steps=150),
    recipe("digits-mlp5-tanh", "digits", Network("mlp", 5, 48, "tanh"), num_steps=250),
    recipe("digits-mlp8-relu", "digits", Network("mlp", 8, 56), num_steps=250, lr=2e-3),
    recipe("digits-mlp13-relu", "digits", Network("mlp", 13, 56), num_steps=300, lr=1e-3),
    recipe("digits-mlp16-add", "digits", Network("mlp", 16, 32, "relu", *ADD), num_steps=200),
    recipe("digits-mlp28-batch", "digits", Network("mlp", 28, 24, "tanh", "batch", "add"), num_steps=150),
    recipe("digits-cnn5-relu", "digits", Network("cnn", 5, 12), num_steps=200),
    recipe("digits-cnn5-elu", "digits", Network("cnn", 5, 12, "elu"), num_steps=200),
    recipe("digits-cnn6-gelu", "digits", Network("cnn", 6, 10, "gelu"), num_steps=200),
    recipe("digits-cnn5-batch", "digits", Network("cnn", 5, 10, "gelu", "batch"), num_steps=150),
    recipe("digits-cnn10-add", "digits", Network("cnn", 10, 8, "relu", "batch", "add"), num_steps=150),
]
RECURRENT = [
    recipe("copy16-rnn", "copy-16", Network("rnn", 1, 40, "tanh"), lr=1e-3, **CLIPPED),
    recipe("copy35-rnn", "copy-35", Network("rnn", 1, 40, "tanh"), lr=1e-3, **CLIPPED),
    recipe("copy18-irnn", "copy-18", Network("rnn", 1, 40, "relu"), Start(gain=0.3), lr=1e-3, **CLIPPED),
    recipe("rows8-rnn2", "digits", Network("rnn", 2, 32, "tanh"), lr=2e-3, **CLIPPED),
    recipe("copy40-lstm", "copy-40", Network("lstm", 1, 28), keeping(40), lr=5e-3, **CLIPPED),
    recipe("copy80-lstm", "copy-80", Network("lstm", 1, 24), keeping(240), lr=1e-2, **CLIPPED),
    recipe("copy160-lstm", "copy-160", Network("lstm", 1, 20), keeping(640), lr=1e-2, num_steps=250, **CLIPPED),
    recipe("copy20-gru", "copy-20", Network("gru", 1, 28), keeping(20), lr=1e-2, **SHORT),
    recipe("copy32-gru", "copy-32", Network("gru", 1, 28), keeping(32), lr=1e-2, **SHORT),
    recipe("copy45-gru", "copy-45", Network("gru", 1, 24), keeping(45), lr=1e-2, **SHORT),
    recipe("adding18-gru", "adding-18", Network("gru", 1, 32), keeping(18, 1.0), lr=1e-2, **CLIPPED),
    recipe("adding20-lstm", "adding-20", Network("lstm", 1, 32), keeping(20, 1.0), lr=1e-2, num_steps=450, **CLIPPED),
    recipe("rows8-gru", "digits", Network("gru", 1, 40), LATE, lr=5e-3, **CLIPPED),
    recipe("pixels64-lstm48", "pixels-64", Network("lstm", 1, 48), keeping(16, 1.0), lr=1e-2, **CLIPPED),
    recipe("text14-gru", "text-14", Network("gru", 1, 56), lr=1e-2, num_steps=250, **CLIPPED),
    recipe("text24-gru", "text-24", Network("gru", 1, 48), lr=1e-2, num_steps=250, **CLIPPED),
    recipe("text22-lstm", "text-22", Network("lstm", 1, 56), LATE, lr=1e-2, **CLIPPED),
]
SMALL, WIDE = Network("transformer", 2, 40, "gelu", *ADD), Network("transformer", 4, 32, "relu", *ADD)
ATTENTION = [
    recipe("rows8-transformer2-40", "digits", SMALL, num_steps=150),
    recipe("rows8-transformer4-32", "digits", WIDE, num_steps=150),
    recipe("copy16-transformer2", "copy-16", SMALL, num_steps=150, batch_size=32),
    recipe("copy28-transformer4", "copy-28", WIDE, num_steps=150, batch_size=32),
    recipe("text14-transformer2", "text-14", SMALL, num_steps=250, batch_size=32, lr=5e-3),
    recipe("text28-transformer4", "text-28", WIDE, num_steps=200, batch_size=32, lr=5e-3),
]
RECIPES = [*FEED_FORWARD, *RECURRENT, *ATTENTION]
