"""The doctor's advice, carried out: the first clause of what it says to do in code, as a change of the program.

A table maps the calls and phrases of the advice to changes. What it does not contain cannot be carried out, and counts
as a remedy that does not fix.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace

from benchmarks.doctor.public.data import CLASSES, make_data
from benchmarks.doctor.public.losses import CATEGORICAL
from benchmarks.doctor.public.program import ACTIVATIONS, BOTH, INPUTS, ONE_HOT, TARGETS, Program
from stabletrain.vocabulary.finding import Finding

IN_CODE = "In code: "
NUMBER = r"(-?[0-9][0-9.]*(?:e[-+]?[0-9]+)?)"
Change = Callable[[Program, re.Match[str]], Program]


def _set_lr(program: Program, match: re.Match[str]) -> Program:
    return replace(program, lr=float(match[1]))


def _scale_lr(factor: float) -> Change:
    return lambda program, match: replace(program, lr=program.rate * factor)


def _use_optimizer(program: Program, match: re.Match[str]) -> Program:
    lr = float(match[2]) if match[2] else None
    return replace(program, optimizer=match[1].lower(), lr=lr, momentum=0.0, nesterov=False)


def _initialize(program: Program, match: re.Match[str]) -> Program:
    saturates = any(line.split()[-1] in ("tanh", "sigmoid") for line in program.layers[:-1]) and not program.activation
    return replace(program, initialize="xavier" if match[2] and saturates else match[1])


def _replace_activations(program: Program, match: re.Match[str]) -> Program:
    return replace(program, activation=match[1])


def _clip(program: Program, match: re.Match[str]) -> Program:
    return replace(program, clip=float(match[1]))


def _normalize(program: Program, match: re.Match[str]) -> Program:
    """Add layer normalization after each hidden dense layer, before its activation."""
    layers: list[str] = []
    for line in program.layers[:-1]:
        words = line.split()
        has_activation = words[-1] in ACTIVATIONS and words[0] == "dense"
        layers += [" ".join(words[:-1]), f"layernorm {words[-1]}"] if has_activation else [line]
    return replace(program, layers=(*layers, program.layers[-1]))


def _scale(what: str) -> Change:
    """Standardize each column of inputs or targets; with the numbers that the advice gives, all alike."""

    def change(program: Program, match: re.Match[str]) -> Program:
        if match[1]:
            return replace(program, **{f"scale_{what}": (float(match[1]), float(match[2]))})
        other = {INPUTS: TARGETS, TARGETS: INPUTS}[what]
        return replace(program, standardize=BOTH if program.standardize in (other, BOTH) else what)

    return change


def _return_logits(program: Program, match: re.Match[str]) -> Program:
    """Remove the last activation, and take the loss of logits that belongs to the task."""
    loss = {"binary_crossentropy": "binary_crossentropy_with_logits"}.get(program.loss, program.loss)
    return replace(program.with_output(""), loss=loss)


def _cross_entropy_of_logits(program: Program, match: re.Match[str]) -> Program:
    """Take the logits of all classes, and their cross-entropy."""
    changed, data = program.with_output(""), make_data(program.data)
    if data.task == CLASSES and changed.layers[-1] == "dense 1":
        changed = replace(changed, layers=(*changed.layers[:-1], f"dense {data.num_classes}"))
    return replace(changed, loss=CATEGORICAL, targets=ONE_HOT)


def _binary_of_logits(program: Program, match: re.Match[str]) -> Program:
    return replace(program.with_output(""), loss="binary_crossentropy_with_logits")


def _squared_error(program: Program, match: re.Match[str]) -> Program:
    return replace(program.with_output(""), loss="mse")


def _use_sigmoid(program: Program, match: re.Match[str]) -> Program:
    loss = program.loss if program.loss != CATEGORICAL else "binary_crossentropy"
    return replace(program.with_output("sigmoid"), loss=loss)


def _train_longer(program: Program, match: re.Match[str]) -> Program:
    """Train for as many epochs as have that many steps."""
    per_epoch = math.ceil(len(make_data(program.data).x) / program.batch_size)
    return replace(program, epochs=max(program.epochs, math.ceil(int(match[1].replace(",", "")) / per_epoch)))


CHANGES: tuple[tuple[str, Change], ...] = (
    (r'st\.initialize_\(model, "(\w+)"\)(, or "xavier" for tanh and sigmoid)?', _initialize),
    (r'st\.replace_activations_\(model, "(\w+)"\)', _replace_activations),
    (rf"st\.clip_gradients_\(.*?max_norm={NUMBER}\)", _clip),
    (r"torch\.nn\.(?:LayerNorm|BatchNorm\w*)", _normalize),
    (rf"torch\.optim\.(Adam|SGD)\b(?:\([^)]*?lr={NUMBER}\))?", _use_optimizer),
    (rf"(?<!\()\blr\s?(?:=|to )\s?{NUMBER}", _set_lr),
    (r"lr to a tenth", _scale_lr(0.1)),
    (r"lr (?:ten times|tenfold) higher", _scale_lr(10)),
    (rf"\bx = \(x - (?:{NUMBER}\) / {NUMBER}|(?:x_train\.)?mean)", _scale(INPUTS)),
    (rf"\by = \(y - (?:{NUMBER}\) / {NUMBER}|(?:y_train\.)?mean)", _scale(TARGETS)),
    (r"train for ([0-9,]+) steps", _train_longer),
    (r"remove the (?:leaky )?\w+(?: after the last layer|: )", _return_logits),
    (r"(?<!place of )(?:binary_cross_entropy_with_logits|BCEWithLogitsLoss)", _binary_of_logits),
    (r"torch\.sigmoid|nn\.Sigmoid", _use_sigmoid),
    (r"\bmse_loss in place of", _squared_error),
    (r"\bF?\.?cross_entropy\(model", _cross_entropy_of_logits),
)


def first_clause(finding: Finding) -> str:
    """Return the first thing that the advice says to do in code; "" if it says none."""
    return finding.advice.partition(IN_CODE)[2].partition("; ")[0].rstrip(".")


def carry_out(program: Program, finding: Finding) -> Program | None:
    """Return the program as the first clause of the advice changes it; None if that cannot be carried out."""
    changed, clause = program, first_clause(finding)
    for pattern, change in CHANGES:
        match = re.search(pattern, clause)
        if match:
            changed = change(changed, match)
    return None if changed == program else changed
