"""Programs on a handful of rows, bits or sequences."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.doctor.public.program import INPUTS, Program
from benchmarks.doctor.public.subject import INFERRED, Subject

_xor = Program(
    "xor",
    ("dense 4 sigmoid", "dense 1 sigmoid"),
    *("mae", "sgd", 0.05, 0.11),
    nesterov=True,
    epochs=1000,
    batch_size=4,
)
_boxes = Program("two_boxes", ("dense 2 sigmoid", "dense 2 softmax"), "categorical_crossentropy", epochs=5)
_six_rows = Program(
    "xor_of_six",
    ("dense 2 sigmoid", "dense 3 sigmoid", "dense 1 softmax"),
    *("mse", "sgd", 0.001, 0.9),
    nesterov=True,
    epochs=20,
    init="uniform",
)
_vectors = Program(
    "constant_vectors",
    ("dense 50 relu", "dropout 0.2", "dense 50 relu", "dropout 0.2", "dense 1 softmax"),
    *("binary_crossentropy", "rmsprop"),
    epochs=3,
    batch_size=2,
)
_triples = Program(
    "triples",
    ("dense 12 relu", "dense 3 relu", "dense 1"),
    "binary_crossentropy",
    epochs=50,
    batch_size=1,
    init="uniform",
)
_bytes = Program(
    "permuted_bytes",
    ("dense 8 sigmoid", "dense 8 sigmoid", "dense 8 sigmoid"),
    *("mse", "sgd"),
    epochs=200,
    batch_size=50,
    init="normal",
)
_direction = Program(
    "sine_direction",
    ("dense 2 relu", "dense 2 relu", "dense 1 sigmoid"),
    "binary_crossentropy",
    epochs=12,
    batch_size=2,
    init="uniform",
)
_threshold = Program(
    "large_numbers", ("dense 1 sigmoid", "dense 1 softmax"), "mae", "rmsprop", epochs=100, batch_size=200, init="normal"
)
_decades = Program(
    "decades",
    ("dense 32 sigmoid", "dense 32 sigmoid", "dense 10 sigmoid"),
    "categorical_crossentropy",
    epochs=3,
    batch_size=50,
    init="normal",
)
_remainders = Program(
    "remainders",
    ("dense 20 relu", "dense 20 relu", "dense 20 softmax"),
    *("categorical_crossentropy", "sgd"),
    epochs=200,
    batch_size=50,
)
_padded = Program(
    "padded_sequences",
    ("bilstm 5 20", "dropout 0.2", "dense 3 sigmoid"),
    *("categorical_crossentropy", "sgd", 0.01, 0.9),
    nesterov=True,
    epochs=10,
    batch_size=20,
)
_bricks = Program(
    "two_bricks",
    ("conv3d 8 4 2 relu", "gap3d", "dense 1 relu", "dense 2 softmax"),
    *("categorical_crossentropy", "adam", 1e-3),
    epochs=5,
    batch_size=12,
)
_sequences = Program(
    "sequence_classes",
    ("lstm 1 16", "dense 4 softmax"),
    *("categorical_crossentropy", "rmsprop"),
    epochs=5,
)

SUBJECTS = (
    Subject(
        3,
        _xor,
        replace(_xor, loss="mse", optimizer="adam", momentum=0, nesterov=False, lr=0.05),
        ("lr_too_low", "output_activation", "no_progress"),
        note="50,000 epochs at 1e-3 are 1,000 at 0.05",
    ),
    Subject(4, _boxes, replace(_boxes, lr=0.05, epochs=20), ("lr_too_low", "no_progress"), note="rate 0.01 is 0.05"),
    Subject(
        9,
        _six_rows,
        replace(
            _six_rows,
            layers=("dense 2 sigmoid", "dense 3 sigmoid", "dense 1 sigmoid"),
            optimizer="adam",
            lr=0.05,
            momentum=0,
            nesterov=False,
            epochs=1000,
            init="glorot_uniform",
        ),
        ("output_activation", "lr_too_low", "no_progress", "bad_init"),
        ("no_gradient",),
        note="with the sigmoid of the accepted answer; the published patch keeps the softmax of one unit",
    ),
    Subject(
        10,
        _vectors,
        replace(_vectors, layers=(*_vectors.layers[:-1], "dense 1 sigmoid")),
        ("output_activation", "no_progress"),
        ("no_gradient",),
        note="20,000 rows are 400, batches of 1 are of 2",
    ),
    Subject(
        11,
        _triples,
        replace(
            _triples,
            layers=("dense 12 relu", "dense 3 relu", "dense 1 sigmoid"),
            standardize=INPUTS,
            lr=0.01,
            init="glorot_uniform",
        ),
        ("output_activation", "input_scale", "lr_too_low", "dead_units"),
        note="150 epochs are 50; 0.01 in place of 0.1; the initialization is further",
    ),
    Subject(
        12,
        _bytes,
        replace(
            _bytes,
            layers=("dense 64 relu", "dense 64 relu", "dense 8 sigmoid"),
            init="glorot_uniform",
            optimizer="adam",
            lr=0.01,
        ),
        ("saturation", "vanishing", "output_activation", "lr_too_low"),
        note="a permutation can only be memorized: further, 64 units and Adam",
    ),
    Subject(
        18,
        _direction,
        _direction,
        (),
        note="no fault, by the published label; in 960 steps it does not learn, nor in 3,200",
        learns=False,
    ),
    Subject(
        26,
        _threshold,
        replace(
            _threshold,
            layers=("dense 1 sigmoid", "dense 1 sigmoid"),
            loss="binary_crossentropy",
            optimizer="adam",
            lr=0.05,
            standardize=INPUTS,
        ),
        ("output_activation", "no_progress", "lr_too_low", "saturation"),
        ("input_scale", "no_gradient"),
        note="the published patch changes loss and optimizer and has little effect; scaling and sigmoid are further",
    ),
    Subject(
        29,
        _decades,
        replace(
            _decades,
            layers=("dense 32 sigmoid", "dense 32 sigmoid", "dense 10 softmax"),
            standardize=INPUTS,
            lr=0.02,
            epochs=20,
            init="glorot_uniform",
        ),
        ("output_activation", "no_progress"),
        ("input_scale", "saturation", "lr_too_low", "bad_init"),
        note="69 classes are 10; the publication confuses broken and mended; mended by scaling, softmax and rate",
    ),
    Subject(
        31,
        _remainders,
        replace(
            _remainders,
            layers=("dense 20 relu", "dense 20 relu", "dense 20 sigmoid"),
            loss="binary_crossentropy",
            optimizer="adam",
            lr=0.01,
        ),
        ("lr_too_high", "lr_too_low"),
        ("output_activation",),
        note="numbers below 128 in place of 20 random bits; Adam at 0.01, not 1e-4; a sigmoid per output is further",
    ),
    Subject(
        32,
        _padded,
        replace(
            _padded, data="two_class_sequences", layers=("bilstm 5 20", "dropout 0.2", "dense 2 softmax"), epochs=30
        ),
        ("lr_too_low", "no_progress"),
        ("output_activation",),
        note="120 sequences in place of about ten; no masking; a softmax is further",
    ),
    Subject(
        33,
        _bricks,
        replace(
            _bricks,
            layers=("conv3d 8 4 2 relu", "conv3d 8 4 2 relu", "gap3d", "dense 2 softmax"),
            lr=1e-2,
            batch_size=6,
        ),
        ("lr_too_low",),
        ("dead_units",),
        note="volumes of 16³ are 8³; six equal volumes folded into one example are one",
    ),
    Subject(
        39,
        _sequences,
        replace(_sequences, optimizer="adam", lr=0.01, epochs=40),
        ("lr_too_low", "no_progress"),
        facts=INFERRED,
        note="not in DeepFD's repository; optimizer, rate and epochs from the patch, an LSTM for sequences",
    ),
)
