"""Requeue a Slurm job before its time limit or on preemption: save between two steps, requeue, and exit."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl

from stabletrain.training.lightning_packages import Callback

_STEPS_BETWEEN_CHECKS = 10  # each check is an all-reduce of one number, which costs a fraction of a step


class RequeueRequest(SystemExit):
    """Ends training once the checkpoint of a requeued job is saved."""


class Requeue(Callback):
    """Saves `last.ckpt` and requeues the Slurm job after its signal has arrived.

    A handler that saves immediately, as Lightning's does, may interrupt a step: one process would wait at the
    checkpoint's barrier and another in the all-reduce of the gradient, which is a deadlock. Here the handler only sets
    a flag; every tenth step and at the end of every epoch all processes exchange their flags and save together.

    Args:
        path: Path of the checkpoint.
        signal_number: Signal that Slurm sends before the time limit: `#SBATCH --signal=USR1@90`; submitit sends USR2.
        requeue: Requeues the job; by default `scontrol requeue`, or submitit's handler if one is installed.
    """

    def __init__(
        self,
        path: Path,
        signal_number: int = signal.SIGUSR1,
        requeue: Callable[[], Any] | None = None,
    ) -> None:
        self.path = path
        self.signal_number = signal_number
        self.is_asked = False
        before = signal.signal(signal_number, self._note)
        self.before: Any = before
        self.requeue = requeue or ((lambda: before(signal_number, None)) if callable(before) else requeue_slurm_job)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.is_asked = True

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Check every tenth step."""
        if (batch_idx + 1) % _STEPS_BETWEEN_CHECKS == 0:
            self._requeue_if_asked(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check; an epoch may be shorter than ten steps."""
        self._requeue_if_asked(trainer)

    def _requeue_if_asked(self, trainer: pl.Trainer) -> None:
        if not trainer.strategy.reduce_boolean_decision(self.is_asked, all=False):
            return
        trainer.save_checkpoint(self.path)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # Slurm sends it next, and everything is saved
        if trainer.is_global_zero:
            with contextlib.suppress(SystemExit):  # submitit's handler exits; all processes exit below
                self.requeue()
        trainer.strategy.barrier()  # Slurm would end the job as soon as one process exits
        raise RequeueRequest(128 + signal.SIGTERM)

    def close(self) -> None:
        """Restore the previous handler; if there was none, ignore the signal, which would otherwise kill the report."""
        signal.signal(self.signal_number, self.before if callable(self.before) else signal.SIG_IGN)


def requeue_slurm_job() -> None:
    """Requeue the Slurm job of this process; it keeps its job id."""
    job = os.environ["SLURM_JOB_ID"]
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    subprocess.run([shutil.which("scontrol") or "scontrol", "requeue", job], check=True)
