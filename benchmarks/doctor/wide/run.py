"""One training loop for all programs, as users write it; unwatched, or watched by doctors."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from benchmarks.doctor.wide.case import Case, Settings
from benchmarks.doctor.wide.faults import Fault
from benchmarks.doctor.wide.program import Program
from benchmarks.doctor.wide.tasks import TASKS

WARMUP_SHARE = 0.2


class Run:
    """A training run.

    Args:
        case: What to train.
        seed: Seed of the data, the weights and the order of the batches.

    Attributes:
        program: The program, with its fault if that is in its networks or data.
        optimizers: Its optimizers by network.
        step: Number of the current step.
        num_steps: The training budget.
    """

    def __init__(self, case: Case, seed: int) -> None:
        torch.manual_seed(seed)
        self.case, self.settings = case, case.settings
        self.fault = case.fault or Fault()
        self.program: Program = TASKS[case.task](seed)
        if self.settings.frozen:
            for path in self.program.frozen:
                self.program.model.get_submodule(path).requires_grad_(False)
        self.fault.prepare(self.program)
        self.optimizers: dict[str, Optimizer] = {
            name: make_optimizer(self.settings, self.fault.parameters(self.program, network), self.program)
            for name, network in self.program.networks.items()
        }
        self.base_lr = next(iter(self.optimizers.values())).param_groups[0]["lr"]
        self.scaler = torch.amp.GradScaler("cpu", self.settings.scaler) if self.settings.scaler else None  # pyright: ignore[reportPrivateImportUsage]
        self.num_steps = round(self.program.num_steps * self.settings.steps_factor)
        self.generator = torch.Generator().manual_seed(seed)
        self.step = 0
        self.losses: list[float] = []

    def __call__(self, doctors: Mapping[str, Any] | None = None) -> float:
        """Train; return the points at the end, NaN if anything is not finite.

        Args:
            doctors: A doctor for each network; none for an unwatched run.
        """
        for network in self.program.networks.values():
            network.train()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of targets that broadcast
            for step in range(self.num_steps):
                self.step = step
                self.take_step(doctors or {})
                if not doctors and not math.isfinite(self.losses[-1]) and self._is_lost():
                    return math.nan
        return math.nan if self._is_lost() else self.points()

    def take_step(self, doctors: Mapping[str, Any]) -> None:
        """Take one step with every network; each doctor measures between its backward pass and optimizer step."""
        for name, optimizer in self.optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = self.base_lr * scheduled(self) * self.fault.lr_factor(self)
            loss = self._gradients(name, optimizer)
            self.fault.after_backward(optimizer)
            if self.scaler:
                self._clip(name, "before_unscale")
                self.scaler.unscale_(optimizer)
            if name in doctors:
                doctors[name].step(loss)
            self._clip(name, "before_step")
            if self.scaler:
                self.scaler.step(optimizer)
                self.scaler.update()
            else:
                optimizer.step()
            self._clip(name, "after_step")
        self.losses.append(loss.item())
        self.fault.after_step(self)
        self.program.after_step(self.step)

    def _gradients(self, name: str, optimizer: Optimizer) -> Tensor:
        """Compute the gradients of a network; return the loss of the last micro-batch."""
        count = self.settings.accumulate
        size = max(1, round(self.program.batch_size * self.settings.batch_factor / count))
        for micro in range(count):
            batch = self.fault.batch(self.program.batch(size, self.generator), self)
            with torch.autocast("cpu", torch.bfloat16) if self.settings.bf16 else contextlib.nullcontext():
                loss = self.program.loss(batch, name)
            loss = loss.float() * (self.settings.loss_factor / count)
            if micro == 0:
                self.fault.before_backward(optimizer)
                self._clip(name, "before_backward")
            (self.scaler.scale(loss) if self.scaler else loss).backward()
        return loss

    def _clip(self, name: str, when: str) -> None:
        if self.settings.clip and self.fault.clips(when):
            nn.utils.clip_grad_norm_(self.program.networks[name].parameters(), self.settings.clip)

    @torch.no_grad()
    def points(self) -> float:
        """Return the program's score in evaluation mode."""
        modes = {network: network.training for network in self.program.networks.values()}
        for network in modes:
            network.eval()
        points = self.program.score()
        for network, mode in modes.items():
            network.train(mode)
        return points

    def _is_lost(self) -> bool:
        return not all(p.isfinite().all() for network in self.program.networks.values() for p in network.parameters())


def make_optimizer(settings: Settings, parameters: list[nn.Parameter], program: Program) -> Optimizer:
    """Return an optimizer at the program's learning rate for its kind."""
    lr = (program.sgd_lr if "sgd" in settings.optimizer else program.lr) * settings.lr_factor
    if settings.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr, momentum=0.9, weight_decay=settings.weight_decay, fused=True)
    if settings.optimizer == "plain_sgd":
        return torch.optim.SGD(parameters, 5 * lr, fused=True)
    if settings.optimizer == "rmsprop":
        return torch.optim.RMSprop(parameters, lr / 2)
    betas = (program.beta1, 0.999)
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr, betas, weight_decay=settings.weight_decay, fused=True)
    return torch.optim.Adam(parameters, lr, betas, fused=True)


def scheduled(run: Run) -> float:
    """Return the schedule's factor of the learning rate."""
    done = run.step / run.num_steps
    if run.settings.schedule == "warmup":
        return min(1.0, (done + 1 / run.num_steps) / WARMUP_SHARE)
    if run.settings.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * done))
    if run.settings.schedule == "onecycle":
        return 2 * min(done / 0.3 + 0.05, (1 - done) / 0.7 + 0.01, 1.0)
    if run.settings.schedule == "steps":
        return 3.0 ** -((done >= 0.5) + (done >= 0.75))
    return 1.0
