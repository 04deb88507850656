"""One training run: fit, test the best weights, and return the outcome."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities.exceptions import SIGTERMException

from stabletrain.errors import RequestError
from stabletrain.record.checkpoint_files import BEST, LAST, forget_previous
from stabletrain.record.run_folder import RunFolder
from stabletrain.training.checkpoint import ManifestCheckpointIO, copy_checkpoint
from stabletrain.training.lean_hooks import skip_empty_hooks_
from stabletrain.training.lightning_internals import has_hook
from stabletrain.training.lightning_packages import Callback
from stabletrain.training.optimization.stability import StabilityStop
from stabletrain.vocabulary.statuses import FAILED, FINISHED, STOPPED, TERMINATED


@dataclass
class Outcome:
    """How a run ended.

    Attributes:
        status: One of `vocabulary.statuses`.
        metrics: Last finite value of every metric.
        steps: Number of optimizer steps taken.
        seconds: Duration of the training.
        error: The exception that ended the run, unless it finished.
    """

    status: str = FINISHED
    metrics: dict[str, float] = field(default_factory=dict)
    steps: int = 0
    seconds: float = 0.0
    error: BaseException | None = None


class SaveWhenStopped(Callback):
    """Saves `last.ckpt` when SIGTERM or Ctrl-C stops the run.

    Args:
        path: Path of the checkpoint.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stopped_by: BaseException | None = None

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Save if all processes can take part: Ctrl-C may reach only one of several."""
        if isinstance(exception, SIGTERMException | KeyboardInterrupt):
            self.stopped_by = exception
            if isinstance(exception, SIGTERMException) or trainer.world_size == 1:
                trainer.save_checkpoint(self.path)


def execute(
    trainer: pl.Trainer,
    module: pl.LightningModule,
    datamodule: pl.LightningDataModule,
    folder: RunFolder,
    checkpoint: Path | None = None,
) -> Outcome:
    """Fit, then test the best weights.

    Args:
        trainer: The trainer, with its callbacks and loggers.
        module: The module to train.
        datamodule: Its data.
        folder: The run's folder, with `checkpoints/`.
        checkpoint: Checkpoint to resume from: weights, optimizer, epoch and step.

    Returns:
        How the run ended.

    Raises:
        RequestError: The batch size is not divisible by the number of processes.
    """
    saver = SaveWhenStopped(folder.checkpoints / LAST)
    trainer.callbacks.append(saver)  # pyright: ignore[reportAttributeAccessIssue]
    skip_empty_hooks_(trainer, module)
    outcome = Outcome()
    start = time.perf_counter()
    try:
        trainer.fit(module, datamodule=datamodule, ckpt_path=checkpoint, weights_only=True)
    except StabilityStop as error:
        outcome.status, outcome.error = STOPPED, error
    except RequestError:
        raise
    except Exception as error:
        outcome.status, outcome.error = FAILED, error
    except SystemExit as error:  # SIGTERM, and Lightning's answer to Ctrl-C
        outcome.status, outcome.error = TERMINATED, saver.stopped_by or error
    outcome.seconds = time.perf_counter() - start
    outcome.steps = trainer.global_step
    outcome.metrics = finite_metrics(trainer)
    if outcome.status == FINISHED:
        _evaluate(trainer, module, datamodule, folder, outcome)
        if trainer.is_global_zero:
            forget_previous(folder.checkpoints)
    return outcome


def _evaluate(
    trainer: pl.Trainer,
    module: pl.LightningModule,
    datamodule: pl.LightningDataModule,
    folder: RunFolder,
    outcome: Outcome,
) -> None:
    """Test the best weights; a run that ended before its first validation is validated first."""
    best, last = folder.checkpoints / BEST, folder.checkpoints / LAST
    if not best.is_file() and last.is_file():
        if _has_stage("val", module, datamodule):
            trainer.validate(module, datamodule=datamodule, verbose=False)
            outcome.metrics |= finite_metrics(trainer)
        if trainer.is_global_zero:
            copy_checkpoint(last, best)
        trainer.strategy.barrier()
    if best.is_file() and _has_stage("test", module, datamodule):
        trainer.test(module, datamodule=datamodule, ckpt_path=best, weights_only=True, verbose=False)
        outcome.metrics |= finite_metrics(trainer)


def _has_stage(stage: str, module: pl.LightningModule, datamodule: pl.LightningDataModule) -> bool:
    """Return whether both implement what Lightning needs for `val` or `test`; a user's own may not."""
    step = {"val": "validation_step", "test": "test_step"}[stage]
    return has_hook(step, module) and has_hook(f"{stage}_dataloader", datamodule)


def check_resumable(checkpoint: Path, module: pl.LightningModule, trainer: Mapping[str, Any]) -> None:
    """Check that a run can resume from a checkpoint, before its files are changed.

    Args:
        checkpoint: Path of the checkpoint.
        module: The module to resume.
        trainer: The settings `max_epochs` and `max_steps`.

    Raises:
        RequestError: Its weights do not fit the module, it is damaged, or it is past `max_epochs` or `max_steps`.
    """
    state = ManifestCheckpointIO().load_checkpoint(checkpoint, weights_only=True)
    expected = {name: value.shape for name, value in module.state_dict().items()}
    found = {name: value.shape for name, value in state["state_dict"].items()}
    if found != expected:
        differing = sorted(n for n in found.keys() | expected.keys() if found.get(n) != expected.get(n))
        raise RequestError(
            "The checkpoint belongs to another composition: its weights do not fit this model.",
            key="resume",
            found=f"{checkpoint}, which differs in {', '.join(differing[:3])}",
            allowed="the settings in config.yaml beside the checkpoint",
            command="python -m stabletrain --config …/config.yaml resume=…",
        )
    for key, done in (("max_epochs", state["epoch"] + 1), ("max_steps", state["global_step"])):
        wanted = trainer.get(key)
        if wanted is not None and wanted != -1 and wanted < done:
            raise RequestError(
                f"The run is already past trainer.{key}.",
                key=f"trainer.{key}",
                found=wanted,
                allowed=f"an integer from {done}",
                closest=str(done),
            )


def finite_metrics(trainer: pl.Trainer) -> dict[str, float]:
    """Return the last value of every metric, leaving out Inf and NaN."""
    values = {name: float(value) for name, value in trainer.callback_metrics.items()}
    return {name: value for name, value in values.items() if math.isfinite(value)}
