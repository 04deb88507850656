"""Checkpoints that are written atomically, each with a manifest that holds its checksum."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins import TorchCheckpointIO
from pytorch_lightning.callbacks import Callback, ModelCheckpoint

from stabletrain.errors import RequestError
from stabletrain.record.checkpoint_files import (
    LAST,
    SHA256,
    digest_of,
    flush_folder,
    is_sound,
    keep_previous,
    manifest_path,
)
from stabletrain.record.run_folder import RunFolder, replace_file, write_json
from stabletrain.vocabulary import metric_names as names


class ManifestCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint to a temporary file, flushes it to disk, renames it, and writes its manifest."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Save `checkpoint` at `path`.

        Args:
            checkpoint: Lightning's checkpoint.
            path: Path of a local file.
            storage_options: Must be None.
        """
        path = Path(path)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        super().save_checkpoint(checkpoint, temporary, storage_options)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        manifest = {
            "file": path.name,
            SHA256: digest_of(temporary),
            "bytes": temporary.stat().st_size,
            "epoch": checkpoint.get("epoch"),
            "step": checkpoint.get("global_step"),
            "saved": datetime.now(UTC).isoformat(timespec="seconds"),
            "torch": torch.__version__,
        }
        if path.name == LAST:
            keep_previous(path)
        temporary.replace(path)
        write_json(manifest_path(path), manifest)
        flush_folder(path.parent)

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Load a checkpoint.

        Raises:
            RequestError: Its SHA-256 is not the one in its manifest.
        """
        if not is_sound(Path(path)):
            raise RequestError(
                "The checkpoint is damaged: its checksum does not match its manifest.",
                key="resume",
                found=path,
                allowed="a checkpoint whose SHA-256 equals the one in the .json file beside it",
            )
        return super().load_checkpoint(path, *args, **kwargs)


def copy_checkpoint(source: Path, destination: Path) -> None:
    """Copy a checkpoint and its manifest."""
    manifest = json.loads(manifest_path(source).read_text()) | {"file": destination.name}
    replace_file(destination, source.read_bytes())
    write_json(manifest_path(destination), manifest)


class BestCheckpoint(ModelCheckpoint):
    """Saves the checkpoint with the lowest `val/loss`, or the lowest validation loss by another name.

    A user's LightningModule may log it as `val_loss` or `valid/loss`: the alphabetically first metric with both `val`
    and `loss` in its name is used. Without one, nothing is saved, and the last checkpoint serves as the best.
    """

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save if the validation loss is the lowest so far."""
        logged = trainer.callback_metrics
        if self.monitor not in logged:
            self.monitor = next((n for n in sorted(logged) if "val" in n.lower() and "loss" in n.lower()), self.monitor)
        if self.monitor in logged:
            super().on_validation_end(trainer, pl_module)


def checkpoint_callbacks(folder: RunFolder) -> list[Callback]:
    """Return the callbacks that save `best.ckpt` (lowest `val/loss`) and, after every epoch, `last.ckpt`."""
    best = BestCheckpoint(
        dirpath=folder.checkpoints,
        filename="best",
        monitor=names.VAL_LOSS,
        mode="min",
        save_top_k=1,
        auto_insert_metric_name=False,
        enable_version_counter=False,
    )
    last = ModelCheckpoint(
        dirpath=folder.checkpoints,
        filename="last",
        save_top_k=1,
        every_n_epochs=1,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )
    return [best, last]
