"""Programs on images; digits of 8 x 8 pixels stand for MNIST and others, and networks are narrower accordingly."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.doctor.public.program import INDEX, Program
from benchmarks.doctor.public.subject import INFERRED, Subject

_nielsen = Program(
    "digits", ("dense 30", "dense 10"), "mse", "sgd", 3.0, epochs=5, batch_size=10, init="standard_normal"
)
_wide = Program(
    "digits",
    ("dense 256 relu", "dropout 0.1", "dense 64 relu", "dropout 0.1", "dense 10 softmax"),
    *("categorical_crossentropy", "sgd", 0.01, 0.9),
    nesterov=True,
    epochs=5,
    batch_size=48,
)
_raw = Program(
    "digits_raw",
    ("dense 64", "dense 50 relu", "dense 10 sigmoid"),
    *("categorical_crossentropy", "sgd", 1e-4),
    epochs=25,
)
_divided_labels = Program(
    "digit_images_without_labels",
    ("conv 16 3 same", "pool 2", "conv 16 3 same", "pool 2", "flatten", "dense 32 relu", "dense 10 softmax"),
    "categorical_crossentropy",
    epochs=6,
)
_damage = Program(
    "three_digit_images",
    (
        *("conv 8 3 same relu", "pool 2", "conv 8 3 same relu", "pool 2", "conv 16 3 same relu", "pool 2", "flatten"),
        *("dense 16 relu", "dropout 0.5", "dense 1"),
    ),
    *("binary_crossentropy_with_logits", "rmsprop"),
    batch_size=16,
    targets=INDEX,
)
_mnist_for_experts = Program(
    "digit_images",
    (
        *("conv 8 5 same relu", "pool 2", "conv 16 5 same relu", "pool 2", "flatten"),
        *("dense 64 relu", "dropout 0.5", "dense 10 relu"),
    ),
    "categorical_crossentropy",
    batch_size=50,
    bias=0.1,
)
_cifar = Program(
    "digit_images",
    (
        *("conv 16 3 same relu", "pool 2", "conv 16 2 same relu", "pool 2", "flatten"),
        *("dense 64 relu", "dropout 0.5", "dense 10 softmax"),
    ),
    "categorical_crossentropy",
    epochs=5,
    batch_size=480,
)
_random_vgg = Program(
    "random_images",
    (
        *("conv 8 3 relu", "conv 8 3 relu", "pool 2", "dropout 0.25", "conv 16 3 same relu", "conv 16 3 same relu"),
        *("pool 2", "dropout 0.25", "flatten", "dense 128 relu", "dropout 0.5", "dense 10 softmax"),
    ),
    *("categorical_crossentropy", "sgd", 0.1, 0.9),
    nesterov=True,
    epochs=80,
    batch_size=10,
)
_adamax = Program(
    "digit_images",
    (
        *("conv 16 3 same relu", "pool 2", "conv 16 3 same relu", "pool 2", "dropout 0.3", "flatten"),
        *("dense 32 relu", "dropout 0.3", "dense 32 relu", "dropout 0.3", "dense 10 softmax"),
    ),
    *("binary_crossentropy", "adamax"),
    epochs=10,
)
_few_epochs = Program(
    "digit_images",
    (
        *("conv 8 3 relu", "conv 8 3 relu", "pool 2", "dropout 0.25", "flatten"),
        *("dense 32 relu", "dropout 0.5", "dense 10 softmax"),
    ),
    *("categorical_crossentropy", "adadelta"),
    epochs=2,
    batch_size=128,
)

SUBJECTS = (
    Subject(
        1,
        _nielsen,
        replace(_nielsen, layers=("dense 30 sigmoid", "dense 10 softmax"), loss="categorical_crossentropy", lr=0.3),
        ("lr_too_high", "output_activation"),
        ("bad_init",),
        note="30 epochs are 5; the patch keeps the rate of 3 that its own label faults: 0.3 here",
    ),
    Subject(
        2,
        _wide,
        replace(_wide, lr=0.05, epochs=10),
        ("lr_too_low", "no_progress"),
        note="5000 and 600 units are 256 and 64; output and loss stay, the patch found them not to matter",
    ),
    Subject(
        8,
        _raw,
        replace(
            _raw,
            layers=("dense 64", "dense 50 relu", "dense 10 softmax"),
            divide=255,
            optimizer="adam",
            lr=1e-3,
        ),
        ("output_activation", "lr_too_low", "input_scale"),
        note="784 units are 64; Adam at 1e-3 in place of 1e-4, since there are fewer steps",
    ),
    Subject(
        15,
        _divided_labels,
        replace(_divided_labels, data="digit_images"),
        ("target_scale", "no_progress"),
        note="labels divided by 255 are all 0 for an integer loss",
    ),
    Subject(
        21,
        _damage,
        replace(
            _damage,
            layers=(*_damage.layers[:-1], "dense 3 softmax"),
            loss="categorical_crossentropy",
            targets="one_hot",
            lr=0.005,
            epochs=20,
        ),
        ("output_activation", "lr_too_low", "no_progress"),
        ("target_scale",),
        note="one sigmoid output for the class numbers 0, 1 and 2, in the form that PyTorch accepts: on logits",
    ),
    Subject(
        25,
        _mnist_for_experts,
        replace(_mnist_for_experts, layers=(*_mnist_for_experts.layers[:-1], "dense 10 softmax"), epochs=20),
        ("output_activation", "dead_units", "lr_too_low"),
        note="1024 units are 64, 32 and 64 channels are 8 and 16",
    ),
    Subject(
        27,
        _cifar,
        replace(_cifar, epochs=15, batch_size=50),
        ("lr_too_low", "no_progress"),
        note="CIFAR-10 is the digits; 256, 128 and 1024 units are 16, 16 and 64",
    ),
    Subject(
        34,
        _random_vgg,
        replace(_random_vgg, lr=0.01),
        ("lr_too_high",),
        note="images of 100 x 100 are 12 x 12; their labels are random, as the program's are",
    ),
    Subject(
        36,
        _adamax,
        replace(_adamax, loss="categorical_crossentropy"),
        ("output_activation", "no_progress"),
        note="100 units are 32; the two losses differ little, as the published patch says",
    ),
    Subject(
        38,
        replace(_mnist_for_experts, layers=(*_mnist_for_experts.layers[:-1], "dense 10 softmax"), divide=255, bias=0),
        replace(_mnist_for_experts, layers=(*_mnist_for_experts.layers[:-1], "dense 10 softmax"), bias=0),
        ("input_scale",),
        facts=INFERRED,
        note="not in DeepFD's repository; inputs divided by 255 twice",
    ),
    Subject(
        47,
        _few_epochs,
        replace(_few_epochs, epochs=10),
        ("lr_too_low", "no_progress"),
        facts=INFERRED,
        note="the post begins with Keras' MNIST example; the network is that one, smaller",
    ),
)
