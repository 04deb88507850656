"""The shipper of a run, which carries its record to MLflow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import yaml

from stabletrain.record.run_folder import RunFolder
from stabletrain.tracking.shipper import Shipper
from stabletrain.tracking.store import resolve_tracking_uri


def make_shipper(folder: RunFolder) -> Shipper:
    """Return the shipper of a run, as its `config.yaml` and the environment configure it."""
    config: dict[str, Any] = yaml.safe_load(folder.config.read_text()) if folder.config.is_file() else {}
    settings = _mlflow_settings(config)
    uri = resolve_tracking_uri(settings.get("tracking_uri"), folder.path)
    log_model = _log_model(folder, config) if config and settings.get("log_model", True) else None
    return Shipper(
        folder,
        uri,
        experiment_name=config.get("experiment_name"),
        run_name=config.get("run_name"),
        log_model=log_model,
    )


def _mlflow_settings(config: Mapping[str, Any]) -> Mapping[str, Any]:
    return (config.get("logger") or {}).get("mlflow") or {}


def _log_model(folder: RunFolder, config: Mapping[str, Any]) -> Callable[..., None]:
    def log(*args: Any, **kwargs: Any) -> None:
        from stabletrain.app.building.model_export import log_best_network

        log_best_network(folder, config, *args, **kwargs)

    return log
