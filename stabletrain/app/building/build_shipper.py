"""The shipper of a run, which carries its record to MLflow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from stabletrain.record.run_folder import RunFolder
from stabletrain.tracking.shipper import Shipper
from stabletrain.tracking.store import resolve_tracking_uri

FindExport = Callable[[], Path | None]


def make_shipper(folder: RunFolder, find_export: FindExport = lambda: None) -> Shipper:
    """Return the shipper of a run, as its `config.yaml` and the environment configure it.

    Args:
        folder: The run's folder.
        find_export: Returns the folder of the exported best network, if there is one; called at the end of the run.
    """
    config: dict[str, Any] = yaml.safe_load(folder.config.read_text()) if folder.config.is_file() else {}
    settings = _mlflow_settings(config)
    uri = resolve_tracking_uri(settings.get("tracking_uri"), folder.path)
    log_model = _log_model(folder, config, find_export) if config and settings.get("log_model", True) else None
    return Shipper(
        folder,
        uri,
        experiment_name=config.get("experiment_name"),
        run_name=config.get("run_name"),
        log_model=log_model,
        live_pictures=settings.get("live_pictures", False),
    )


def _mlflow_settings(config: Mapping[str, Any]) -> Mapping[str, Any]:
    return (config.get("logger") or {}).get("mlflow") or {}


def _log_model(folder: RunFolder, config: Mapping[str, Any], find_export: FindExport) -> Callable[[str, str], None]:
    def log(run_id: str, tracking_uri: str) -> None:
        if (exported := find_export()) is not None:
            from stabletrain.tracking.best_model import log_exported

            log_exported(run_id, tracking_uri, exported)
        else:
            from stabletrain.app.building.model_export import log_best_network

            log_best_network(folder, config, run_id, tracking_uri)

    return log
