"""Regressions, most of one variable."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.doctor.public.program import BOTH, INPUTS, Program
from benchmarks.doctor.public.subject import INFERRED, Subject

_relu_output = Program("signed_target", ("dense 4 relu", "dense 1 relu"), "mse", "sgd", epochs=100, batch_size=10)
_plane = Program(
    "plane",
    ("dense 3", "tanh", "dropout 0.5", "dense 2", "tanh", "dropout 0.5", "dense 1 softmax"),
    *("mse", "sgd", 0.1, 0.9),
    nesterov=True,
    epochs=20,
    init="uniform",
)
_square = Program("noisy_square", ("dense 50 relu", "dense 30 relu", "dense 1"), "mse", "sgd", 0.1, epochs=700)
_fourth = Program(
    "fourth_power", ("dense 50 sigmoid", "dense 50 elu", "dense 1"), "mse", "adam", epochs=1000, batch_size=400
)
_parabola = Program("parabola", ("dense 5 sigmoid", "dense 1 sigmoid"), "mse", "sgd", epochs=1000, batch_size=160)
_noise = Program(
    "noise", ("dense 60 relu", "dense 50 relu", "dense 1 softmax"), "binary_crossentropy", epochs=5, batch_size=4
)
_six = Program(
    "six_variables",
    ("dense 12 relu", "dense 12 relu", "dense 2 relu", "dense 12 relu", "dense 12 relu", "dense 6 sigmoid"),
    *("mse", "adadelta"),
    epochs=40,
)
_polynomial = Program(
    "polynomial", ("dense 200 relu", "dense 45 relu", "dense 1"), "mse", "sgd", epochs=5, batch_size=50
)
_ramp = Program(
    "ramp",
    ("dense 50 relu", "dense 50 relu", "dense 1"),
    *("binary_crossentropy_with_logits", "sgd"),
    epochs=100,
    batch_size=100,
    init="uniform",
)
_sine = Program(
    "sine",
    ("dense 10 tanh", "dense 90 tanh", *9 * ("dense 10 tanh",), "dense 1 tanh"),
    "mse",
    epochs=25,
    batch_size=20,
)
_line = Program("five_times", ("dense 1",), "mse", "rmsprop", epochs=200)
_prices = Program("areas_and_prices", ("dense 32 relu", "dense 32 relu", "dense 1"), "mse", "sgd", epochs=50)

SUBJECTS = (
    Subject(
        5,
        _relu_output,
        replace(_relu_output, layers=("dense 4 relu", "dense 1 tanh")),
        ("output_activation", "dead_units"),
        note="the table of ten columns is not complete in the post: a target of both signs in its place",
    ),
    Subject(
        7,
        _plane,
        replace(
            _plane,
            layers=("dense 3", "tanh", "dense 2", "tanh", "dense 1"),
            standardize=BOTH,
            init="glorot_uniform",
            lr=0.01,
        ),
        ("output_activation",),
        ("input_scale", "target_scale", "saturation", "no_gradient"),
        note="the published patch (a linear output) does not help; further: scaling, no dropout, a tenth of the rate",
    ),
    Subject(
        13,
        _square,
        replace(_square, lr=1e-3),
        ("lr_too_high",),
        ("target_scale",),
        note="2,000 steps are 1,400, at 1e-3 in place of 1e-4",
    ),
    Subject(
        17,
        _fourth,
        replace(_fourth, standardize=BOTH, lr=0.01),
        ("input_scale", "target_scale"),
        ("saturation", "lr_too_low"),
        note="1e-3 is 1e-2, since 1,000 steps are few",
    ),
    Subject(
        20,
        _parabola,
        replace(_parabola, layers=("dense 5 sigmoid", "dense 1")),
        ("output_activation", "saturation"),
        ("target_scale",),
    ),
    Subject(
        22,
        _noise,
        replace(_noise, layers=("dense 60 relu", "dense 50 relu", "dense 1 sigmoid")),
        ("output_activation",),
        ("no_gradient",),
        note="targets are noise, as the program's are: nothing to learn but their mean",
        learns=False,
    ),
    Subject(
        40,
        _six,
        replace(
            _six,
            layers=(*("dense 12 tanh", "dense 12 tanh", "dense 2 tanh", "dense 12 tanh", "dense 12 tanh", "dense 6"),),
        ),
        ("output_activation", "saturation", "dead_units"),
        ("target_scale",),
        note="a quotient exceeds 1: a linear output, where the published patch has tanh and does not help",
    ),
    Subject(
        42,
        _polynomial,
        replace(_polynomial, lr=0.03, epochs=40),
        ("lr_too_low", "no_progress"),
        note="40 epochs of 9,000 examples are 5 of 1,600",
    ),
    Subject(
        43,
        _ramp,
        replace(
            _ramp,
            layers=("dense 50 relu", "dense 50 relu", "dense 1"),
            loss="mse",
            optimizer="adam",
            standardize=BOTH,
        ),
        ("target_scale", "input_scale", "output_activation", "no_progress", "lr_too_high"),
        ("saturation",),
        note="loss on logits, as PyTorch accepts such targets; mended as the accepted answer says, not as the patch",
    ),
    Subject(
        44,
        _sine,
        replace(_sine, layers=("dense 10 relu", "dense 25 relu", "dense 1"), standardize=INPUTS, lr=0.01),
        ("saturation", "vanishing", "input_scale", "output_activation"),
        note="5,000 steps are 1,000, at ten times the rate",
    ),
    Subject(45, _line, replace(_line, lr=0.1), ("lr_too_low",)),
    Subject(
        46,
        _prices,
        replace(_prices, standardize=BOTH),
        ("input_scale", "target_scale"),
        ("lr_too_high",),
        facts=INFERRED,
        note="the patch scales inputs and targets to 0 … 1; data and network are not published",
    ),
)
