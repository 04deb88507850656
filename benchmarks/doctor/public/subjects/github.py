"""The five programs from GitHub."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.doctor.public.program import BOTH, Program
from benchmarks.doctor.public.subject import Subject

_life = Program(
    "game_of_life", ("conv 10 3 relu", "conv 20 1 relu", "conv 1 1 sigmoid", "flatten"), "binary_crossentropy", epochs=5
)
_keypoints = Program("keypoints", ("dense 50", "dense 100", "dense 30"), "mse", "adam", 0.1, epochs=40)
_reviews = Program(
    "reviews",
    ("dense 16 relu", "dense 16 relu", "dense 1 sigmoid"),
    *("binary_crossentropy", "rmsprop"),
    epochs=4,
    batch_size=64,
)
_signs = Program(
    "colored_digit_images",
    (
        *("conv 3 1 relu", "conv 8 3 same relu", "conv 16 3 relu", "pool 2", "conv 16 3 relu", "flatten"),
        *("dropout 0.5", "dense 32 relu", "dropout 0.5", "dense 10 softmax"),
    ),
    "categorical_crossentropy",
    epochs=15,
    batch_size=64,
)
_house = Program(
    "prices", ("dense 20", "dense 20", "dense 1"), "mse", "adam", epochs=12, batch_size=4, init="glorot_normal"
)

SUBJECTS = (
    Subject(
        48,
        _life,
        replace(_life, lr=0.01, epochs=40),
        ("lr_too_low", "no_progress", "output_activation"),
        note="fields of 8 x 8; the cross-entropy stays, 10 epochs are 40",
    ),
    Subject(
        49,
        _keypoints,
        replace(_keypoints, optimizer="sgd", lr=0.01, momentum=0.9, epochs=80),
        ("lr_too_high", "oscillation", "no_progress", "lr_too_low"),
        note="faces are images of two blobs; 400 epochs are 80 with momentum",
    ),
    Subject(
        50,
        _reviews,
        replace(
            _reviews,
            layers=("dense 16 relu", "dropout 0.5", "dense 16 relu", "dropout 0.5", "dense 1 sigmoid"),
            epochs=7,
        ),
        ("lr_too_low", "no_progress"),
        note="IMDB is a generator of texts of 2,000 words",
    ),
    Subject(
        51,
        _signs,
        replace(
            _signs,
            layers=("conv 3 1 sigmoid", "conv 8 3 same elu", "conv 16 3 elu", *_signs.layers[3:]),
        ),
        ("dead_units", "saturation", "vanishing"),
        note="traffic signs are colored digits; channels are fewer",
    ),
    Subject(
        52,
        _house,
        replace(_house, layers=("dense 20 tanh", "dense 20 tanh", "dense 1"), standardize=BOTH),
        ("saturation",),
        ("target_scale", "lr_too_low"),
        note="house prices are scikit-learn's diabetes times 1,000; scaling is further",
    ),
)
