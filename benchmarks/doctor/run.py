"""Train a case with one seed, unwatched for its outcome, or watched by the doctor."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.doctor.case import Case, Event, Training
from benchmarks.doctor.models import build
from benchmarks.doctor.start import initialize_
from benchmarks.doctor.tasks import Task, make_task

NUM_VALIDATIONS = 20
NUM_FOLLOWED = 8  # sequences per batch for the gradient through time
WARMUP_SHARE = 0.3
WARMUP_STEPS = 100  # of `warmup_cosine`, as in conf/schedule


class Run:
    """A training run in a plain loop.

    Args:
        case: What to train.
        seed: Seed of the data, the weights and the order of the batches.
    """

    def __init__(self, case: Case, seed: int) -> None:
        torch.manual_seed(seed)
        self.case, self.training = case, case.training
        self.task: Task = make_task(case.task, case.network.family, seed)
        is_causal = case.task.startswith("text")
        self.model = build(case.network, self.task.x, self.task.num_outputs, is_causal)
        initialize_(self.model, case.network, case.start)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = make_optimizer(self.training, self.parameters)
        self.generator = torch.Generator().manual_seed(seed)
        self.losses: list[float] = []

    def __call__(self, doctor: Any = None) -> float:
        """Train; return the points on the validation set at the end, NaN if anything is not finite."""
        for step in range(self.training.num_steps):
            loss = self.take_step(step, doctor)
            self.losses.append(loss)
            if doctor is None and not math.isfinite(loss) and self._is_lost():
                return math.nan
            if doctor is not None and (step + 1) % max(1, self.training.num_steps // NUM_VALIDATIONS) == 0:
                points, val_loss = self.validate()
                validate_doctor(doctor, self.task, points, val_loss)
        return math.nan if self._is_lost() else self.validate()[0]

    def take_step(self, step: int, doctor: Any) -> float:
        """Take one step; the doctor measures between the backward pass and the optimizer's step."""
        event = self.case.event if self.case.event and self.case.event.step == step else None
        self._set_lr(step)
        x, y = spoil(*self._batch(), event)
        self.optimizer.zero_grad()
        loss = self.training.loss_factor * self.task.loss(self.model(x), y)
        loss.backward()
        if event and event.kind == "skip":
            for parameter in self.parameters:
                if parameter.grad is not None:
                    parameter.grad.fill_(math.inf)
        if doctor is not None:
            self._show(doctor, loss, x, y)
        if event and event.kind == "skip":
            return loss.item()
        self.clip()
        if event:
            corrupt_(self.optimizer, event)
        self.optimizer.step()
        return loss.item()

    def clip(self) -> None:
        """Clip the gradients as the case says."""
        if self.training.clip:
            nn.utils.clip_grad_norm_(self.parameters, self.training.clip)

    @torch.no_grad()
    def validate(self) -> tuple[float, float]:
        """Return the points and the loss on the validation set."""
        self.model.eval()
        outputs = self.model(self.task.val_x * self.training.input_factor)
        self.model.train()
        return self.task.score(outputs, self.task.val_y), self.task.loss(outputs, self.task.val_y).item()

    def _show(self, doctor: Any, loss: Tensor, x: Tensor, y: Tensor) -> None:
        if x.dim() == 3 and self.case.network.family in ("rnn", "lstm", "gru"):
            some = y[:NUM_FOLLOWED]
            doctor.follow_time(
                x[:NUM_FOLLOWED], lambda outputs: self.training.loss_factor * self.task.loss(outputs, some)
            )
        doctor.step(loss)

    def _batch(self) -> tuple[Tensor, Tensor]:
        rows = torch.randint(len(self.task.x), (self.training.batch_size,), generator=self.generator)
        return self.task.x[rows] * self.training.input_factor, self.task.y[rows]

    def _set_lr(self, step: int) -> None:
        event = self.case.event
        factor = scheduled(self.training, step)
        if event and event.kind == "lr_jump" and step >= event.step:
            factor *= event.size
        for group in self.optimizer.param_groups:
            group["lr"] = self.training.lr * factor

    def _is_lost(self) -> bool:
        return not all(p.isfinite().all() for p in self.model.parameters())


def make_optimizer(training: Training, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """Return the optimizer of a case."""
    if training.optimizer == "sgd":
        return torch.optim.SGD(parameters, training.lr, momentum=training.momentum, fused=True)
    if training.optimizer == "rmsprop":
        return torch.optim.RMSprop(parameters, training.lr, alpha=0.99)
    return torch.optim.Adam(parameters, training.lr, (training.momentum, 0.999), fused=True)


def scheduled(training: Training, step: int) -> float:
    """Return the factor of the learning rate on a step."""
    if training.schedule == "warmup":
        return min(1.0, (step + 1) / (WARMUP_SHARE * training.num_steps))
    if training.schedule == "warmup_cosine":
        after = max(0, step - WARMUP_STEPS) / max(1, training.num_steps - WARMUP_STEPS)
        return min(1.0, (step + 1) / WARMUP_STEPS) * 0.5 * (1 + math.cos(math.pi * after))
    if training.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * step / training.num_steps))
    return 1.0


def spoil(x: Tensor, y: Tensor, event: Event | None) -> tuple[Tensor, Tensor]:
    """Return the batch, modified by the event."""
    if event is None or event.kind not in ("poison", "outlier", "nan_batch"):
        return x, y
    if event.kind == "nan_batch":
        x = x.clone()
        x[0] = math.nan
        return x, y
    return x * event.size, y.roll(1, 0) if event.kind == "poison" else y


@torch.no_grad()
def corrupt_(optimizer: torch.optim.Optimizer, event: Event) -> None:
    """Modify the optimizer's state as described by the event."""
    if event.kind == "restart":
        optimizer.state.clear()
    for state in optimizer.state.values():
        for first in (state[k] for k in ("exp_avg", "momentum_buffer") if state.get(k) is not None):
            if event.kind == "momentum":
                first.mul_(event.size)
            elif event.kind == "nan_state":
                first.view(-1)[0] = math.nan
        if event.kind == "moments" and "exp_avg_sq" in state:
            state["exp_avg_sq"].div_(event.size)


def validate_doctor(doctor: Any, task: Task, points: float, val_loss: float) -> None:
    """Pass the results of a validation to the doctor."""
    if task.is_regression:
        doctor.validate(loss=val_loss, mse=val_loss)
    else:
        doctor.validate(loss=val_loss, accuracy=points / 100)
