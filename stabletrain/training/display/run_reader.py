"""Reads a run as it goes on; the callbacks that show progress ask it when they draw."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl

from stabletrain.signal.snapshot import Snapshot
from stabletrain.training.callbacks.gradient_watch import GradientWatch
from stabletrain.training.display.pace import Budget, Pace
from stabletrain.training.display.readings import Readings
from stabletrain.training.display.trainer_values import (
    budget_of,
    findings_of,
    gradients_of,
    loss_of,
    metric_of,
    watch_of,
)


class RunReader:
    """Keeps the pace of a run and reads its numbers.

    Args:
        clock: Returns seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._budget = Budget()
        self._watch: GradientWatch | None = None
        self._metric: tuple[str, float] | None = None
        self._epoch = 0
        self.pace = Pace(clock)

    def start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Begin, once the training loader is set up."""
        self._budget = budget_of(trainer, module)
        self._watch = watch_of(trainer)
        self._metric = None
        self._epoch = trainer.current_epoch
        self.pace = Pace(self._clock)

    def start_epoch(self, trainer: pl.Trainer) -> None:
        """Note which epoch begins: at the end of a run, the trainer counts one more."""
        self._epoch = trainer.current_epoch

    @property
    def snapshot(self) -> Snapshot | None:
        """The last measurement of the layers."""
        return None if self._watch is None else self._watch.last_snapshot

    @property
    def layers(self) -> list[str]:
        """Names of all layers in forward order, with and without a gradient."""
        return [] if self._watch is None else self._watch.layers

    def validated(self, trainer: pl.Trainer) -> None:
        """Keep a metric of the validation that has just ended."""
        self._metric = metric_of(trainer)

    def read(
        self,
        trainer: pl.Trainer,
        module: pl.LightningModule,
        outputs: Any,
        batch_idx: int = -1,
        activity: str = "",
        is_over: bool = False,
    ) -> Readings:
        """Return the numbers of this moment; the loss and the gradients may wait for a GPU.

        Args:
            trainer: The trainer.
            module: Its module.
            outputs: What the last training step returned; None before the first one.
            batch_idx: Number of the last batch in its epoch, from 0; -1 before the first one.
            activity: What goes on beside training.
            is_over: Whether training has ended.
        """
        step, budget = trainer.global_step, self._budget
        share = budget.share_done(step, self._epoch * (budget.num_batches or 0) + batch_idx + 1)
        if batch_idx >= 0 and not activity and not is_over:
            self.pace.note(step, share)
        gradients, num_nonfinite = gradients_of(self.snapshot)
        return Readings(
            step=step,
            total_steps=budget.total_steps,
            epoch=self._epoch + 1,
            num_epochs=budget.num_epochs,
            share=share,
            steps_per_second=self.pace.steps_per_second,
            left_s=self.pace.left_s,
            elapsed_s=self.pace.elapsed_s,
            loss=loss_of(module, outputs),
            metric=self._metric,
            gradients=gradients,
            num_nonfinite=num_nonfinite,
            findings=findings_of(trainer),
            activity=activity,
            is_over=is_over,
        )
