"""Lightning loggers: one writes to the record; the one for MLflow only configures the view that is shipped from it."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from lightning_fabric.utilities.rank_zero import rank_zero_only

from stabletrain.diagnosis.history import finite_scalars
from stabletrain.record.writer import RecordWriter
from stabletrain.training.lightning_packages import Logger


class RecordLogger(Logger):
    """Writes the metrics that Lightning logs to the run's event file.

    Non-finite values are not written; `<signal>/nonfinite` counts them.

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
        """The event file, created on first use."""
        if self._writer is None:
            self._writer = RecordWriter(self._folder)
        return self._writer

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self._folder.name

    @property
    def version(self) -> str:
        """Empty: a run has a folder of its own."""
        return ""

    @property
    def save_dir(self) -> str:
        """The run's folder."""
        return str(self._folder.parent)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append the metrics of a step."""
        scalars = {key: float(value) for key, value in metrics.items() if key != "epoch"}
        self.writer.write_scalars(step or 0, finite_scalars(scalars, self._num_nonfinite))

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
    """Return the event file of the trainer's `RecordLogger`, created if need be; None without such a logger."""
    for logger in trainer.loggers:
        if isinstance(logger, RecordLogger):
            return logger.writer
    return None


class MLflowLogger(Logger):
    """Configures where MLflow shows the run. It logs nothing: the shipper copies the record.

    Args:
        tracking_uri: URI of the store; by default MLFLOW_TRACKING_URI, else `mlflow.db` beside the run's folder.
        log_model: Whether to log the best network to MLflow, with its signature.
        live_pictures: Whether MLflow gets pictures while the run is training; if not, all are drawn at its end.
    """

    def __init__(self, tracking_uri: str | None = None, log_model: bool = True, live_pictures: bool = False) -> None:
        super().__init__()
        self.tracking_uri = tracking_uri
        self.log_model = log_model
        self.live_pictures = live_pictures

    @property
    def name(self) -> str:
        """The logger's name."""
        return "mlflow"

    @property
    def version(self) -> str:
        """Empty: MLflow names its runs itself."""
        return ""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Do nothing: the shipper copies the record."""

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the shipper copies the configuration."""
