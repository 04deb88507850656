"""One training run: fit, test the best weights, and say how it ended."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities.exceptions import SIGTERMException

from stabletrain.errors import RequestError
from stabletrain.record.run_folder import RunFolder
from stabletrain.training.checkpoint import BEST, LAST, ManifestCheckpointIO, copy_checkpoint
from stabletrain.training.lightning_internals import has_hook
from stabletrain.training.optimization.stability import StabilityStop
from stabletrain.vocabulary.statuses import FAILED, FINISHED, STOPPED, TERMINATED


@dataclass
class Outcome:
    """How a run ended.

    Attributes:
        status: One of the states in `record.folder`.
        metrics: Last value of every metric, finite ones only.
        steps: Optimizer steps done.
        seconds: Time spent in training.
        error: What ended the run, if it did not finish.
    """

    status: str = FINISHED
    metrics: dict[str, float] = field(default_factory=dict)
    steps: int = 0
    seconds: float = 0.0
    error: BaseException | None = None


class SaveWhenStopped(Callback):
    """Saves `last.ckpt` when the run is asked to stop (SIGTERM, Ctrl-C).

    Args:
        path: Where the checkpoint goes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stopped_by: BaseException | None = None

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Save, if all processes are here to do so together."""
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
        trainer: With its callbacks and loggers.
        module: What is trained.
        datamodule: What it is trained on.
        folder: Where `checkpoints/best.ckpt` will be.
        checkpoint: Where to go on from: weights, optimizer, epoch and step.

    Raises:
        RequestError: A batch does not divide over the processes.
    """
    saver = SaveWhenStopped(folder.checkpoints / LAST)
    trainer.callbacks.append(saver)  # pyright: ignore[reportAttributeAccessIssue]
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
    """Whether both sides bring what Lightning needs to validate (`val`) or to test; those of users may not."""
    step = {"val": "validation_step", "test": "test_step"}[stage]
    return has_hook(step, module) and has_hook(f"{stage}_dataloader", datamodule)


def check_resumable(checkpoint: Path, module: pl.LightningModule, trainer: Mapping[str, Any]) -> None:
    """Check that a checkpoint fits the composition, before the run's files are touched.

    Raises:
        RequestError: Other weights than the model's, a damaged file, or more epochs or steps than asked for.
    """
    state = ManifestCheckpointIO().load_checkpoint(checkpoint, weights_only=True)
    expected = {name: value.shape for name, value in module.state_dict().items()}
    found = {name: value.shape for name, value in state["state_dict"].items()}
    if found != expected:
        differing = sorted(n for n in found.keys() | expected.keys() if found.get(n) != expected.get(n))
        raise RequestError(
            "The checkpoint is of another composition: its weights do not fit this model.",
            key="resume",
            found=f"{checkpoint}, which differs in {', '.join(differing[:3])}",
            allowed="the settings in config.yaml beside the checkpoint",
            command="python -m stabletrain --config …/config.yaml resume=…",
        )
    for key, done in (("max_epochs", state["epoch"] + 1), ("max_steps", state["global_step"])):
        wanted = trainer.get(key)
        if wanted is not None and wanted != -1 and wanted < done:
            raise RequestError(
                f"The run has gone further than trainer.{key} already.",
                key=f"trainer.{key}",
                found=wanted,
                allowed=f"an integer from {done}",
                closest=str(done),
            )


def finite_metrics(trainer: pl.Trainer) -> dict[str, float]:
    """Return what was logged last, without Inf and NaN."""
    values = {name: float(value) for name, value in trainer.callback_metrics.items()}
    return {name: value for name, value in values.items() if math.isfinite(value)}
