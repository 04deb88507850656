"""Asked by Slurm to make room: save between two steps, put the job back into the queue, and end."""

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
from pytorch_lightning.callbacks import Callback

_STEPS_BETWEEN_QUESTIONS = 10  # of all processes to one another: one reduction of one number, a part of a step's cost


class RequeueRequest(SystemExit):
    """Ends training after the checkpoint of a job that goes back into the queue."""


class Requeue(Callback):
    """Saves `last.ckpt` and requeues the Slurm job when its signal has come.

    A handler that saves at once, as Lightning's does, may stand in the middle of a step: one process would wait at the
    checkpoint's barrier, another in the gradient's reduction, each for the other. Here the signal is only noted; all
    processes ask one another every tenth step, and at the end of an epoch, and save together.

    Args:
        path: Where the checkpoint goes.
        signal_number: What Slurm sends before the time limit: `#SBATCH --signal=USR1@90`; submitit sends USR2.
        requeue: What puts the job back; by default `scontrol requeue`, or submitit's own handler if it is there.
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
        """Ask now and then."""
        if (batch_idx + 1) % _STEPS_BETWEEN_QUESTIONS == 0:
            self._leave_if_asked(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Ask; an epoch may be shorter than ten steps."""
        self._leave_if_asked(trainer)

    def _leave_if_asked(self, trainer: pl.Trainer) -> None:
        if not trainer.strategy.reduce_boolean_decision(self.is_asked, all=False):
            return
        trainer.save_checkpoint(self.path)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # which Slurm sends next; all that it would ask for is done
        if trainer.is_global_zero:
            with contextlib.suppress(SystemExit):  # submitit's handler ends the process; all of them end, below
                self.requeue()
        trainer.strategy.barrier()  # a process that ended before would end the job
        raise RequeueRequest(128 + signal.SIGTERM)

    def close(self) -> None:
        """Give the signal back to whoever had it; from nobody it would end a run that is at its report already."""
        signal.signal(self.signal_number, self.before if callable(self.before) else signal.SIG_IGN)


def requeue_slurm_job() -> None:
    """Put this process' Slurm job back into the queue; it keeps its number."""
    job = os.environ["SLURM_JOB_ID"]
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    subprocess.run([shutil.which("scontrol") or "scontrol", "requeue", job], check=True)
