"""`sync RUN_DIR`: carry what is recorded on disk, and not yet on the tracking server."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import yaml

from stabletrain.app.composition.compose import Composition
from stabletrain.app.output_dir import open_run
from stabletrain.errors import RequestError
from stabletrain.record.run_folder import RunFolder
from stabletrain.tracking.follow import follow
from stabletrain.tracking.shipper import Shipper
from stabletrain.tracking.store import Unreachable, resolve_tracking_uri
from stabletrain.vocabulary.statuses import FAILED, RUNNING

FOLLOW = "--follow"


def run(composition: Composition, arguments: Sequence[str] = ()) -> int:
    """Ship one run or several; with `--follow`, go on until the training ends (see tracking.process)."""
    for path in [a for a in arguments if a != FOLLOW]:
        folder = open_run(path)
        shipper = make_shipper(folder)
        if FOLLOW in arguments:
            follow(shipper, sys.stdin, _emit)
            continue
        try:
            result = shipper.ship()
        except Unreachable as error:
            raise RequestError(
                f"The tracking server does not answer: {error}",
                key="MLFLOW_TRACKING_URI",
                found=shipper.tracking_uri,
                allowed="the address of a running MLflow server; unset for the store beside the run",
                command=f"python -m stabletrain sync {path}   # again, when it runs",
            ) from error
        shipper.write_links(result)
        if result.status == "KILLED" and folder.read_summary().get("status") == RUNNING:
            folder.update_summary(status=FAILED)  # its process is gone and could not say so
        print(f"{path}: {result}")
        for note in result.notes:
            print(f"  {note}")
        if result.url:
            print(f"  {result.url}")
    return 0


def make_shipper(folder: RunFolder) -> Shipper:
    """Return the shipper of a run, as its own configuration and the environment say."""
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


def _emit(event: Mapping[str, Any]) -> None:
    print(json.dumps(event), flush=True)
