"""Build and check everything that a run needs, before anything is written."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers.logger import Logger

from stabletrain.app.building.build import Built, build
from stabletrain.app.building.build_on_threads import build_on_threads, note_threads
from stabletrain.app.building.build_trainer import SHARDED, build_loggers, build_trainer
from stabletrain.app.building.compatibility import check
from stabletrain.app.composition.compose import Composition
from stabletrain.app.console import Console
from stabletrain.app.first_process import is_first_process
from stabletrain.errors import RequestError
from stabletrain.record.checkpoint_files import LAST
from stabletrain.record.run_folder import RunFolder
from stabletrain.tracking.store import resolve_tracking_uri
from stabletrain.training import TrainingModule
from stabletrain.training.callbacks.doctor_callback import DoctorCallback
from stabletrain.training.callbacks.gradient_watch import GradientWatch
from stabletrain.training.callbacks.offender_bundle import OffenderBundle
from stabletrain.training.callbacks.spinning_threads import SpinningThreads
from stabletrain.training.callbacks.step_checkpoint import StepCheckpoint
from stabletrain.training.callbacks.system_metrics import SystemWatch
from stabletrain.training.checkpoint import ManifestCheckpointIO, checkpoint_callbacks
from stabletrain.training.compiling import EagerMeasurement, compile_, require_compiler
from stabletrain.training.datamodule import DataModule
from stabletrain.training.loggers import RecordLogger
from stabletrain.training.optimization.lr_finder import FoundRate, find_lr
from stabletrain.training.resumable_loader import TrainingOrder

TRACKING_SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql", "databricks")


@dataclass(frozen=True)
class Prepared:
    """A run that is ready to start.

    Attributes:
        composition: The composition; after `lr_find=true`, with the learning rate that was found.
        built: Data, network and module.
        trainer: Lightning's trainer.
        record: The logger that writes the run's event file.
        loggers: The other loggers, by name.
        watch: The callback that measures the gradients.
        saver: The callback that saves checkpoints between the ends of epochs.
        doctor: The callback that warns during the run; None with `doctor=off`.
        notes: Notes on what trains but is questionable.
        found: The result of the learning rate finder, if it ran.
    """

    composition: Composition
    built: Built
    trainer: pl.Trainer
    record: RecordLogger
    loggers: dict[str, Logger]
    watch: GradientWatch
    saver: StepCheckpoint
    doctor: DoctorCallback | None
    notes: list[str]
    found: FoundRate | None = None


def prepare(
    composition: Composition, folder: RunFolder, console: Console, callbacks: Sequence[Callback] = ()
) -> Prepared:
    """Build a run and check it; nothing is written.

    Raises:
        RequestError: The composition is not valid, or does not fit the data or the machine.
    """
    check_tracking_uri(composition.config, folder.path)
    quiet_libraries()
    composition, built = build_on_threads(composition)
    found = None
    if composition.config["lr_find"]:
        found = _find_lr(composition.config, built)
        composition = composition.with_values({"optimizer.lr": found.lr, "lr_find": False})
        built = build(composition.config)
    config = composition.config
    loggers = build_loggers(config)
    record = RecordLogger(folder.events)
    watch = GradientWatch(**config["watch"])
    settings = config["doctor"]
    doctor = DoctorCallback(settings["fail_on"], say=console.warn) if settings["enabled"] else None
    compiled = _compile(config, built, watch) if config["compile"] else []
    saver = StepCheckpoint(folder.checkpoints / LAST, **config["checkpoint"])
    trainer = build_trainer(
        config,
        logger=[record, *loggers.values()],
        callbacks=[
            watch,
            *compiled,
            *built.callbacks,
            OffenderBundle(folder.path),
            *([doctor] if doctor else []),
            SystemWatch(),
            SpinningThreads(console.note),
            TrainingOrder(),
            saver,
            *checkpoint_callbacks(folder),
            console.progress(config["console"]),
            *callbacks,
        ],
        plugins=[ManifestCheckpointIO()],
        default_root_dir=str(folder.path),
        use_distributed_sampler=not isinstance(built.datamodule, DataModule),  # ours divides the examples itself
        enable_model_summary=False,
        enable_progress_bar=False,  # ours is a plain callback
    )
    notes = [*check(config, built, trainer.world_size), *note_threads(config)]
    return Prepared(composition, built, trainer, record, loggers, watch, saver, doctor, notes, found)


def _compile(config: Mapping[str, Any], built: Built, watch: GradientWatch) -> list[Callback]:
    require_compiler()
    compile_(built.module, by_block=SHARDED.get(config["trainer"].get("strategy"), False))
    return [EagerMeasurement(watch)]


def _find_lr(config: Mapping[str, Any], built: Built) -> FoundRate:
    lr = config["optimizer"].get("lr")
    if not isinstance(built.module, TrainingModule) or lr is None:
        reason = "the optimizer has no lr" if isinstance(built.module, TrainingModule) else "the model has its own"
        raise RequestError(
            f"The learning rate finder sets optimizer.lr, but {reason}.",
            key="lr_find",
            found="true",
            allowed="false here",
            closest="false",
        )
    return find_lr(built.module, built.datamodule, lr, config["trainer"].get("accelerator", "auto"))


def check_tracking_uri(config: Mapping[str, Any], run_dir: Path) -> None:
    """Refuse an address with an unknown scheme; a server that does not answer is not an error."""
    mlflow = (config["logger"] or {}).get("mlflow")
    if mlflow is None:
        return
    explicit = mlflow.get("tracking_uri")
    uri = str(explicit) if not isinstance(explicit, str | None) else resolve_tracking_uri(explicit, run_dir)
    if uri.partition(":")[0].partition("+")[0] not in TRACKING_SCHEMES:
        raise RequestError(
            "MLflow has no store of this kind.",
            key="logger.mlflow.tracking_uri",
            found=uri,
            allowed="http://HOST:PORT, https://HOST, sqlite:////ABSOLUTE/PATH/mlflow.db, or another database",
            command="python -m stabletrain logger.mlflow.tracking_uri=http://127.0.0.1:5000",
        )


def quiet_libraries() -> None:
    """Silence the hints of libraries that do not concern our users; warnings about the users' own code stay."""
    for name in ("pytorch_lightning", "lightning_fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*The `srun` command is available on your system but is not used.*",
        ".*The number of training batches.*is smaller than the logging interval.*",
        ".*Checkpoint directory .* exists and is not empty.*",
        ".*lr_scheduler.step.*before.*optimizer.step.*",
        ".*was configured so validation will run.*",
        ".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*",
        ".*resuming from a checkpoint that ended before the epoch ended.*",
        ".*could not find the monitored key in the returned metrics.*",
        ".*The dirpath has changed from.*",
        ".*The `srun` command is available.*",  # on a machine of a Slurm cluster, where srun is optional
    ):
        warnings.filterwarnings("ignore", message=message)
    if not is_first_process():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (only the first process prints)
