"""The healthy runs that all others are compared with: one for each task and architecture."""

from __future__ import annotations

import math

from benchmarks.doctor.case import Case, Network, Start, Training

RECURRENT = ("rnn", "lstm", "gru")


def _recipe(name: str, part: str, task: str, network: Network, start: Start | None = None, **training: float) -> Case:
    name = f"{name}/reference"
    return Case(name, part, task, network, Training(**training), start or Start(), reference=name)  # type: ignore[arg-type]


def _keeping(length: int, gain: float = 3.0) -> Start:
    """Gates that begin open for about `length` steps (Tallec and Ollivier 2018); one-hot inputs want large weights."""
    return Start(gain=gain, gate_bias=math.log(length))


def make_recipes() -> list[Case]:
    """Return the references, those of recurrent networks with clipping."""
    net = Network
    feed_forward = [
        _recipe("circles-mlp4-relu", "tuning", "circles", net("mlp", 4, 24), num_steps=250),
        _recipe("moons-mlp4-tanh", "validation", "moons", net("mlp", 4, 24, "tanh"), num_steps=250),
        _recipe("blobs-mlp6-relu", "validation", "blobs", net("mlp", 6, 24), num_steps=200),
        _recipe("digits-mlp6-relu", "tuning", "digits", net("mlp", 6, 48), num_steps=250),
        _recipe("circles-mlp8-tanh", "validation", "circles", net("mlp", 8, 24, "tanh"), num_steps=300),
        _recipe("moons-mlp10-relu", "tuning", "moons", net("mlp", 10, 32), num_steps=300, lr=2e-3),
        _recipe("digits-mlp10-relu", "validation", "digits", net("mlp", 10, 48), num_steps=300, lr=2e-3),
        _recipe("blobs-mlp12-elu", "tuning", "blobs", net("mlp", 12, 32, "elu"), num_steps=250, lr=1e-3),
        _recipe("digits-mlp12-tanh", "validation", "digits", net("mlp", 12, 48, "tanh"), num_steps=250, lr=1e-3),
        _recipe(
            "circles-mlp16-gelu-add", "validation", "circles", net("mlp", 16, 24, "gelu", "layer", "add"), num_steps=200
        ),
        _recipe("digits-mlp20-batch", "tuning", "digits", net("mlp", 20, 24, "relu", "batch", "add"), num_steps=200),
        _recipe("blobs-mlp30-add", "validation", "blobs", net("mlp", 30, 16, "tanh", "layer", "add"), num_steps=150),
        _recipe("moons-mlp24-add", "tuning", "moons", net("mlp", 24, 16, "tanh", "layer", "add"), num_steps=200),
        _recipe("digits-cnn4-relu", "tuning", "digits", net("cnn", 4, 12), num_steps=200),
        _recipe("digits-cnn6-batch", "validation", "digits", net("cnn", 6, 8, "relu", "batch"), num_steps=150),
        _recipe("digits-cnn8-add", "validation", "digits", net("cnn", 8, 8, "relu", "batch", "add"), num_steps=150),
    ]
    clip = {"clip": 1.0, "batch_size": 32}
    recurrent = [
        _recipe("copy20-rnn", "tuning", "copy-20", net("rnn", 1, 32, "tanh"), lr=1e-3, **clip),
        _recipe("copy40-rnn", "validation", "copy-40", net("rnn", 1, 32, "tanh"), lr=2e-3, **clip),
        _recipe("copy30-irnn", "validation", "copy-30", net("rnn", 1, 32, "relu"), Start(gain=0.3), lr=1e-3, **clip),
        _recipe("rows8-irnn", "tuning", "digits", net("rnn", 1, 32, "relu"), Start(gain=0.3), lr=2e-3, **clip),
        _recipe("copy50-lstm", "tuning", "copy-50", net("lstm", 1, 24), _keeping(50), lr=5e-3, **clip),
        _recipe(
            "copy100-lstm", "validation", "copy-100", net("lstm", 1, 24), _keeping(400), lr=1e-2, num_steps=250, **clip
        ),
        _recipe("copy25-gru", "tuning", "copy-25", net("gru", 1, 24), _keeping(25), lr=1e-2, num_steps=150, **clip),
        _recipe("copy30-gru", "validation", "copy-30", net("gru", 1, 24), _keeping(30), lr=1e-2, num_steps=150, **clip),
        _recipe(
            "copy200-lstm", "tuning", "copy-200", net("lstm", 1, 16), _keeping(800), lr=1e-2, num_steps=200, **clip
        ),
        _recipe(
            "adding20-gru", "tuning", "adding-20", net("gru", 1, 32), _keeping(20, 1.0), lr=1e-2, num_steps=300, **clip
        ),
        _recipe(
            "adding25-lstm",
            "validation",
            "adding-25",
            net("lstm", 1, 32),
            _keeping(25, 1.0),
            lr=1e-2,
            num_steps=500,
            **clip,
        ),
        _recipe("rows8-lstm2", "validation", "digits", net("lstm", 2, 32), Start(gate_bias=1.0), lr=5e-3, **clip),
        _recipe("pixels64-lstm", "tuning", "pixels-64", net("lstm", 1, 32), _keeping(16, 1.0), lr=1e-2, **clip),
        _recipe("text20-gru", "tuning", "text-20", net("gru", 1, 48), lr=1e-2, num_steps=250, **clip),
        _recipe("text32-lstm", "validation", "text-32", net("lstm", 1, 48), Start(gate_bias=1.0), lr=1e-2, **clip),
    ]
    attention = [
        _recipe(
            "rows8-transformer2", "tuning", "digits", net("transformer", 2, 32, "gelu", "layer", "add"), num_steps=200
        ),
        _recipe(
            "rows8-transformer4",
            "validation",
            "digits",
            net("transformer", 4, 24, "gelu", "layer", "add"),
            num_steps=150,
        ),
        _recipe(
            "copy24-transformer2",
            "tuning",
            "copy-24",
            net("transformer", 2, 24, "gelu", "layer", "add"),
            num_steps=150,
            batch_size=32,
        ),
        _recipe(
            "text24-transformer2",
            "validation",
            "text-24",
            net("transformer", 2, 32, "gelu", "layer", "add"),
            num_steps=250,
            batch_size=32,
            lr=1e-2,
        ),
    ]
    return feed_forward + recurrent + attention + _more_to_tune_on(clip) + _to_report_on(clip)


def _more_to_tune_on(clip: dict) -> list[Case]:
    """Return further references of the tuning part: thresholds that rest on few networks fit these alone."""
    net = Network
    return [
        _recipe("blobs-mlp5-gelu", "tuning", "blobs", net("mlp", 5, 32, "gelu"), num_steps=200),
        _recipe("moons-mlp6-elu", "tuning", "moons", net("mlp", 6, 24, "elu"), num_steps=250),
        _recipe("digits-mlp8-tanh", "tuning", "digits", net("mlp", 8, 40, "tanh"), num_steps=250, lr=2e-3),
        _recipe("blobs-mlp9-relu", "tuning", "blobs", net("mlp", 9, 32), num_steps=200, lr=2e-3),
        _recipe("digits-mlp14-gelu-add", "tuning", "digits", net("mlp", 14, 32, "gelu", "layer", "add"), num_steps=200),
        _recipe("digits-cnn5-gelu", "tuning", "digits", net("cnn", 5, 10, "gelu"), num_steps=200),
        _recipe("digits-cnn6-tanh-batch", "tuning", "digits", net("cnn", 6, 10, "tanh", "batch"), num_steps=150),
        _recipe("copy15-irnn", "tuning", "copy-15", net("rnn", 1, 32, "relu"), Start(gain=0.3), lr=1e-3, **clip),
        _recipe("rows8-rnn", "tuning", "digits", net("rnn", 1, 40, "tanh"), lr=2e-3, **clip),
        _recipe("copy35-gru", "tuning", "copy-35", net("gru", 1, 24), _keeping(35), lr=1e-2, num_steps=150, **clip),
        _recipe("rows8-gru2", "tuning", "digits", net("gru", 2, 32), Start(gate_bias=1.0), lr=5e-3, **clip),
        _recipe("text16-lstm", "tuning", "text-16", net("lstm", 1, 48), Start(gate_bias=1.0), lr=1e-2, **clip),
        _recipe(
            "rows8-transformer3",
            "tuning",
            "digits",
            net("transformer", 3, 32, "relu", "layer", "add"),
            num_steps=150,
        ),
        _recipe(
            "text16-transformer3",
            "tuning",
            "text-16",
            net("transformer", 3, 32, "gelu", "layer", "add"),
            num_steps=200,
            batch_size=32,
            lr=5e-3,
        ),
    ]


def _to_report_on(clip: dict) -> list[Case]:
    """Return the references of the part that figures are reported on, made when the rules stood."""
    net, add = Network, ("layer", "add")
    feed_forward = [
        _recipe("circles-mlp5-relu", "reporting", "circles", net("mlp", 5, 24), num_steps=250),
        _recipe("moons-mlp5-gelu", "reporting", "moons", net("mlp", 5, 24, "gelu"), num_steps=250),
        _recipe("blobs-mlp7-tanh", "reporting", "blobs", net("mlp", 7, 24, "tanh"), num_steps=200),
        _recipe("digits-mlp7-elu", "reporting", "digits", net("mlp", 7, 48, "elu"), num_steps=250, lr=2e-3),
        _recipe("circles-mlp7-gelu", "reporting", "circles", net("mlp", 7, 24, "gelu"), num_steps=300),
        _recipe("moons-mlp9-relu", "reporting", "moons", net("mlp", 9, 32), num_steps=300, lr=2e-3),
        _recipe("digits-mlp9-gelu", "reporting", "digits", net("mlp", 9, 48, "gelu"), num_steps=300, lr=2e-3),
        _recipe("blobs-mlp11-relu", "reporting", "blobs", net("mlp", 11, 32), num_steps=250, lr=1e-3),
        _recipe("digits-mlp11-elu", "reporting", "digits", net("mlp", 11, 48, "elu"), num_steps=250, lr=1e-3),
        _recipe("circles-mlp18-add", "reporting", "circles", net("mlp", 18, 24, "relu", *add), num_steps=200),
        _recipe("digits-mlp18-batch", "reporting", "digits", net("mlp", 18, 24, "gelu", "batch", "add"), num_steps=200),
        _recipe("blobs-mlp26-add", "reporting", "blobs", net("mlp", 26, 16, "gelu", *add), num_steps=150),
        _recipe("moons-mlp20-add", "reporting", "moons", net("mlp", 20, 16, "relu", *add), num_steps=200),
        _recipe("digits-cnn4-tanh", "reporting", "digits", net("cnn", 4, 12, "tanh"), num_steps=200),
        _recipe("digits-cnn7-batch", "reporting", "digits", net("cnn", 7, 8, "relu", "batch"), num_steps=150),
        _recipe("digits-cnn9-add", "reporting", "digits", net("cnn", 9, 8, "gelu", "batch", "add"), num_steps=150),
    ]
    short, late = {"num_steps": 150, **clip}, Start(gate_bias=1.0)
    recurrent = [
        _recipe("copy25-rnn", "reporting", "copy-25", net("rnn", 1, 32, "tanh"), lr=1e-3, **clip),
        _recipe("copy30-rnn", "reporting", "copy-30", net("rnn", 1, 32, "tanh"), lr=2e-3, **clip),
        _recipe("copy22-irnn", "reporting", "copy-22", net("rnn", 1, 32, "relu"), Start(gain=0.3), lr=1e-3, **clip),
        _recipe("rows8-irnn2", "reporting", "digits", net("rnn", 2, 32, "relu"), Start(gain=0.3), lr=2e-3, **clip),
        _recipe("copy60-lstm", "reporting", "copy-60", net("lstm", 1, 24), _keeping(60), lr=5e-3, **clip),
        _recipe("copy120-lstm", "reporting", "copy-120", net("lstm", 1, 24), _keeping(480), lr=1e-2, **clip),
        _recipe("copy28-gru", "reporting", "copy-28", net("gru", 1, 24), _keeping(28), lr=1e-2, **short),
        _recipe("copy40-gru", "reporting", "copy-40", net("gru", 1, 24), _keeping(40), lr=1e-2, **short),
        _recipe("adding22-gru", "reporting", "adding-22", net("gru", 1, 32), _keeping(22, 1.0), lr=1e-2, **clip),
        _recipe("rows8-lstm", "reporting", "digits", net("lstm", 1, 40), late, lr=5e-3, **clip),
        _recipe("pixels64-gru", "reporting", "pixels-64", net("gru", 1, 32), _keeping(16, 1.0), lr=1e-2, **clip),
        _recipe("text18-gru", "reporting", "text-18", net("gru", 1, 48), lr=1e-2, num_steps=250, **clip),
        _recipe("text28-lstm", "reporting", "text-28", net("lstm", 1, 48), late, lr=1e-2, **clip),
    ]
    small, wide = net("transformer", 5, 24, "gelu", *add), net("transformer", 2, 40, "gelu", *add)
    copying = net("transformer", 3, 24, "gelu", *add)
    attention = [
        _recipe("rows8-transformer5", "reporting", "digits", small, num_steps=150),
        _recipe("copy20-transformer3", "reporting", "copy-20", copying, num_steps=150, batch_size=32),
        _recipe("text20-transformer2", "reporting", "text-20", wide, num_steps=250, batch_size=32, lr=1e-2),
    ]
    return feed_forward + recurrent + attention
