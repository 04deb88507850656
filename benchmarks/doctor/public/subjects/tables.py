"""Programs on tables."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.doctor.public.program import INPUTS, Program
from benchmarks.doctor.public.subject import INFERRED, Subject

_labels = Program(
    "multilabel",
    ("dense 20 relu", "dropout 0.5", "dense 20 relu", "dropout 0.5", "dense 3 softmax"),
    *("mse", "sgd"),
    epochs=12,
    batch_size=20,
)
_census = Program(
    "measurements", ("dense 21 relu", "dense 2 softmax"), "categorical_crossentropy", epochs=50, batch_size=100
)
_flowers = Program(
    "iris",
    ("dense 4 relu", "dense 3 sigmoid"),
    "categorical_crossentropy",
    epochs=40,
    batch_size=5,
    init="normal",
)
_election = Program(
    "counties",
    ("dense 64 tanh", "dropout 0.5", "dense 64 tanh", "dropout 0.5", "dense 2 softmax"),
    *("mse", "sgd", 0.1, 0.9),
    nesterov=True,
    epochs=40,
    batch_size=16,
    init="uniform",
)
_packets = Program(
    "packets",
    ("dense 12 relu", "dense 12 relu", "dense 1 relu"),
    "binary_crossentropy",
    epochs=40,
    batch_size=5,
    init="normal",
)
_passengers = Program(
    "passengers",
    ("dense 128 relu", "dropout 0.5", "dense 2 softmax"),
    "categorical_crossentropy",
    batch_size=4,
)
_pyramid = Program(
    "one_label",
    ("dense 10 relu", "dense 20 relu", "dense 30 relu", "dense 40 relu", "dense 50 relu", "dense 1 softmax"),
    "categorical_crossentropy",
    epochs=25,
    batch_size=10,
)
_one_by_one = Program("iris", ("dense 16 sigmoid", "dense 3 softmax"), "categorical_crossentropy", batch_size=1)
_particles = Program(
    "particles",
    (
        "dense 150 relu",
        "dropout 0.5",
        "dense 100 relu",
        "dropout 0.5",
        "dense 25 relu",
        "dropout 0.5",
        "dense 1 sigmoid",
    ),
    *("binary_crossentropy", "rmsprop"),
    epochs=1,
    batch_size=1,
)
_one_softmax = Program(
    "measurements_scaled",
    ("dense 16 relu", "dense 8 relu", "dense 1 softmax"),
    "binary_crossentropy",
    epochs=20,
)

SUBJECTS = (
    Subject(
        6,
        _labels,
        replace(_labels, layers=(*_labels.layers[:-1], "dense 3 sigmoid"), loss="binary_crossentropy"),
        ("output_activation", "no_progress"),
        note="48,000 steps are 960",
    ),
    Subject(
        14,
        _census,
        replace(_census, standardize=INPUTS, lr=0.01),
        ("input_scale", "lr_too_low", "no_progress"),
        note="the adult census is scikit-learn's breast cancer, unscaled",
    ),
    Subject(
        16,
        _flowers,
        replace(_flowers, layers=("dense 4 selu", "dense 3 softmax"), standardize=INPUTS, optimizer="sgd"),
        ("output_activation", "input_scale", "lr_too_low", "dead_units"),
        note="200 epochs are 40",
    ),
    Subject(
        19,
        _election,
        replace(
            _election,
            layers=(
                *("batchnorm", "dense 64 tanh", "dropout 0.5", "dense 64 tanh", "dropout 0.5"),
                "dense 2 sigmoid",
            ),
            loss="binary_crossentropy",
        ),
        ("output_activation", "saturation", "no_progress"),
        ("input_scale",),
        note="20 counties are 200 rows of a generator with such scales",
    ),
    Subject(
        23,
        _packets,
        replace(
            _packets,
            layers=("dense 12 relu", "dense 12 relu", "dense 1 sigmoid"),
            standardize=INPUTS,
            lr=0.01,
            init="glorot_uniform",
        ),
        ("input_scale",),
        ("output_activation", "dead_units"),
        note="20 packets are 100 rows of a generator with such columns; the sigmoid and the rate are further",
    ),
    Subject(
        24,
        replace(_flowers, epochs=40),
        replace(_flowers, epochs=40, layers=("dense 4 relu", "dense 3 softmax")),
        ("output_activation", "dead_units"),
        note="50 epochs are 40; the published patch makes it worse",
    ),
    Subject(
        28,
        _passengers,
        replace(_passengers, standardize=INPUTS, optimizer="sgd"),
        ("lr_too_high", "lr_too_low", "output_activation", "no_progress"),
        ("input_scale",),
        note="Titanic's passengers are a generator with such scales; 512 units are 128; scaling is further",
    ),
    Subject(
        30,
        _pyramid,
        replace(_pyramid, layers=(*_pyramid.layers[:-1], "dense 1 sigmoid"), loss="binary_crossentropy"),
        ("output_activation", "no_progress"),
        ("no_gradient",),
        note="with the fault of the label, since the publication confuses broken and mended",
    ),
    Subject(
        35,
        _one_by_one,
        _one_by_one,
        ("output_activation", "no_progress"),
        note="the categorical loss of one-hot labels is the sparse loss of their numbers: no fault in PyTorch",
    ),
    Subject(
        37,
        _particles,
        replace(
            _particles,
            layers=("dense 25 relu", "dropout 0.5", "dense 10 relu", "dropout 0.5", "dense 1 sigmoid"),
            optimizer="adam",
            lr=0.005,
            epochs=60,
            batch_size=64,
            standardize=INPUTS,
        ),
        ("lr_too_high", "oscillation", "no_progress"),
        ("input_scale",),
        note="the Higgs challenge is a generator with missing values of -999; scaling and the rate are further",
    ),
    Subject(
        41,
        _one_softmax,
        replace(_one_softmax, layers=("dense 16 relu", "dense 8 relu", "dense 1 sigmoid")),
        ("output_activation",),
        ("no_gradient",),
        facts=INFERRED,
        note="not in DeepFD's repository; a softmax of one unit for two classes, as the patch says",
    ),
)
