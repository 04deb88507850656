"""Lightning's numbers into the record. MLflow is a view of the record, kept up by a process beside the training."""

from __future__ import annotations

import math
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from lightning_fabric.utilities.rank_zero import rank_zero_only
from pytorch_lightning.loggers.logger import Logger

from stabletrain.record.writer import RecordWriter


class RecordLogger(Logger):
    """Writes what Lightning logs into the run's event file.

    A non-finite value is counted under `<signal>/nonfinite` instead of being written.

    Args:
        folder: The run's `tensorboard/` folder.
    """

    def __init__(self, folder: Path | str) -> None:
        super().__init__()
        self._folder = Path(folder)
        self._writer: RecordWriter | None = None
        self._num_nonfinite: dict[str, int] = {}

    @property
    def writer(self) -> RecordWriter:
        """The event file, begun on first use."""
        if self._writer is None:
            self._writer = RecordWriter(self._folder)
        return self._writer

    @property
    def name(self) -> str:
        """Folder name, as Lightning asks."""
        return self._folder.name

    @property
    def version(self) -> str:
        """Not used: one folder per run."""
        return ""

    @property
    def save_dir(self) -> str:
        """The run's folder."""
        return str(self._folder.parent)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append the metrics of one step."""
        scalars = {key: float(value) for key, value in metrics.items() if key != "epoch"}
        for key in [k for k, v in scalars.items() if not math.isfinite(v)]:
            signal = f"{key.partition('/')[0]}/nonfinite"
            self._num_nonfinite[signal] = self._num_nonfinite.get(signal, 0) + 1
            scalars[signal] = self._num_nonfinite[signal]
        self.writer.write_scalars(step or 0, scalars)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the configuration is in `config.yaml`."""

    @rank_zero_only
    def close(self) -> None:
        """Close the event file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def find_writer(trainer: pl.Trainer) -> RecordWriter | None:
    """Return the record of the trainer's `RecordLogger`, or None if it has no such logger."""
    for logger in trainer.loggers:
        if isinstance(logger, RecordLogger):
            return logger.writer
    return None


class MLflowLogger(Logger):
    """Says that MLflow shall show the run, and where. The numbers come from the record, not from here.

    Args:
        tracking_uri: Address of the store; by default MLFLOW_TRACKING_URI, else `mlflow.db` beside the run's folder.
        log_model: Whether the best network is kept in MLflow with its signature.
    """

    def __init__(self, tracking_uri: str | None = None, log_model: bool = True) -> None:
        super().__init__()
        self.tracking_uri = tracking_uri
        self.log_model = log_model

    @property
    def name(self) -> str:
        """The logger's name."""
        return "mlflow"

    @property
    def version(self) -> str:
        """Not used."""
        return ""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Do nothing: the shipper carries the record."""

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the shipper carries the configuration."""
