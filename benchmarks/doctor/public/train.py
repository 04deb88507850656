"""The one training loop of all programs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

import stabletrain as st
from benchmarks.doctor.public.data import CLASSES, Data, make_data
from benchmarks.doctor.public.losses import CATEGORICAL, LOSSES, prior_of
from benchmarks.doctor.public.program import BOTH, INDEX, INPUTS, TARGETS, Program, num_steps

TOLD, BARE, UNWATCHED = "told", "bare", "unwatched"
LEAST = -100.0  # points of a prediction that is far worse than a constant one


@dataclass(frozen=True)
class Trained:
    """A trained program.

    Attributes:
        points: 100 times the accuracy or R² on the test set, at least `LEAST`; `LEAST` if not finite.
        first_loss: Of the first step.
        last_loss: Of the last step.
        doctor: Who watched; None if nobody did.
    """

    points: float
    first_loss: float
    last_loss: float
    doctor: st.Doctor | None


def train(program: Program, seed: int, watch: str = UNWATCHED) -> Trained:
    """Train a program.

    Args:
        program: What to train.
        seed: Of weights, dropout and batches; the data are the same for all seeds.
        watch: `TOLD` for a doctor that knows optimizer, number of steps and prior loss, `BARE` for one that knows the
            model only, `UNWATCHED` for none.
    """
    torch.manual_seed(seed)
    data = prepare(program, make_data(program.data))
    model = program.make_model(data.x[:2])
    optimizer = program.make_optimizer(model)
    doctor = _doctor(watch, program, data, model, optimizer)
    losses = []
    for _ in range(program.epochs):
        for batch in torch.randperm(len(data.x)).split(program.batch_size):
            loss = LOSSES[program.loss](model(data.x[batch]), data.y[batch])
            optimizer.zero_grad()
            loss.backward()
            if doctor is not None:
                doctor.step(loss)
            if program.clip is not None:
                st.clip_gradients_(model.parameters(), "norm", max_norm=program.clip)
            optimizer.step()
            losses.append(float(loss.detach()))
    return Trained(_points(program, data, model), losses[0], losses[-1], doctor)


def _doctor(
    watch: str, program: Program, data: Data, model: nn.Module, optimizer: torch.optim.Optimizer
) -> st.Doctor | None:
    if watch == UNWATCHED:
        return None
    if watch == BARE:
        return st.Doctor(model)
    prior = prior_of(program.loss, data.y)
    return st.Doctor(model, optimizer=optimizer, num_steps=num_steps(program, len(data.x)), prior_loss=prior)


def prepare(program: Program, data: Data) -> Data:
    """Return the data as the program feeds them: scaled, and labels as targets."""
    (shift, by), (shift_y, by_y) = program.scale_inputs, program.scale_targets
    x, x_test = ((values / program.divide - shift) / by for values in (data.x, data.x_test))
    y, y_test = (_targets(program, data, labels) for labels in (data.y, data.y_test))
    if by_y != 1:
        y, y_test = (y - shift_y) / by_y, (y_test - shift_y) / by_y
    if program.standardize in (INPUTS, BOTH):
        x, x_test = _standardized(x, x), _standardized(x_test, x)
    if program.standardize in (TARGETS, BOTH):
        y, y_test = _standardized(y, y), _standardized(y_test, y)
    return Data(x, y, x_test, y_test, data.task, data.num_classes)


def _targets(program: Program, data: Data, labels: Tensor) -> Tensor:
    if data.task != CLASSES or (program.loss == CATEGORICAL and program.targets != INDEX):
        return labels
    if program.targets == INDEX:
        return labels.float().unsqueeze(-1)
    return nn.functional.one_hot(labels, data.num_classes).float()


def _standardized(values: Tensor, like: Tensor) -> Tensor:
    """Return values with the mean and deviation of each column of `like` removed."""
    deviation = like.std(0)
    return (values - like.mean(0)) / torch.where(deviation > 0, deviation, 1.0)


@torch.no_grad()
def _points(program: Program, data: Data, model: nn.Module) -> float:
    outputs = model.eval()(data.x_test)
    model.train()
    if program.loss == "binary_crossentropy_with_logits":
        outputs = outputs.sigmoid()
    if not torch.isfinite(outputs).all():
        return LEAST
    if data.task == CLASSES and program.targets != INDEX:
        labels = data.y_test.argmax(-1) if data.y_test.is_floating_point() else data.y_test
        return 100 * float((outputs.argmax(-1) == labels).float().mean())
    if data.task == CLASSES:
        return 100 * float((outputs.round() == data.y_test).float().mean())
    if data.task == "regression":
        residual = (outputs - data.y_test).square().sum() / (data.y_test - data.y_test.mean(0)).square().sum()
        return max(LEAST, 100 * (1 - float(residual)))
    return 100 * float(((outputs > 0.5) == (data.y_test > 0.5)).float().mean())
