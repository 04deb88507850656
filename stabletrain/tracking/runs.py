"""Find the MLflow run of a record, and what its first entries say."""

from __future__ import annotations

import itertools
import time
import zlib
from typing import TYPE_CHECKING, Any

from stabletrain.record.reader import Info, event_files, read_entries
from stabletrain.record.run_folder import RunFolder
from stabletrain.record.writing_process import is_training as is_training
from stabletrain.record.writing_process import start_time_s
from stabletrain.tracking import tags
from stabletrain.tracking.store import artifact_root
from stabletrain.tracking.sweep_parent import parent_tag

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

DEFAULT_EXPERIMENT = "stabletrain"
_NOT_FOUND = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")


def find_run(
    client: MlflowClient,
    tracking_uri: str,
    folder: RunFolder,
    info: dict[str, Any],
    *,
    experiment_name: str | None,
    run_name: str | None,
    known_id: str | None,
    notes: list[str],
) -> Run:
    """Return the MLflow run of a record: the known one, else the one with its uid, else a new one.

    A run or experiment that was deleted is restored.

    Args:
        client: A client of the tracking server.
        tracking_uri: The server.
        folder: The run's folder.
        info: What the record says about the run.
        experiment_name: Name of the experiment; as in the record if None, else `stabletrain`.
        run_name: Name of a new run; as in the record if None, else the folder's name.
        known_id: Id of the MLflow run if it is known.
        notes: Receives a sentence for everything that was restored.
    """
    uid = run_uid(folder, info)
    experiment_id = None
    run = _noted_run(client, known_id, uid, folder) or _noted_run(
        client, folder.read_summary().get("mlflow_run_id"), uid, folder
    )
    if run is None:
        experiment_id = _experiment(client, tracking_uri, experiment_name or info.get("experiment_name"), notes)
        run = tags.find_by_uid(client, experiment_id, uid)
    else:
        _restore_experiment(client, run.info.experiment_id, notes)
    if run is None:
        assert experiment_id is not None
        name = str(run_name or info.get("run_name") or folder.path.name)[:250]
        own = {tags.UID: uid} | parent_tag(client, experiment_id, folder)
        return client.create_run(experiment_id, start_time=_start_ms(folder), tags=own, run_name=name)
    if run.info.lifecycle_stage == "deleted":
        client.restore_run(run.info.run_id)
        notes.append(f"The MLflow run {run.info.run_name!r} had been deleted; it was restored.")
    return tags.upgrade(client, run)


def run_uid(folder: RunFolder, info: dict[str, Any]) -> str:
    """Return the id in the record; one derived from the folder if the record has none."""
    return str(info.get("run_uid") or _folder_uid(folder)).replace("'", "_")


def first_info(folder: RunFolder) -> dict[str, Any] | None:
    """Return what the start of the record says about the run; empty if nothing, None if there is no record yet."""
    entries = list(itertools.islice(read_entries(folder.events), 1000))
    if not entries:
        return None
    return next((entry.info for entry, _ in entries if isinstance(entry, Info)), {})


def end_ms(folder: RunFolder) -> int:
    """Return the time of the last write to the record, in ms."""
    files = event_files(folder.events)
    return round(max((p.stat().st_mtime for p in files), default=time.time()) * 1000)


def _start_ms(folder: RunFolder) -> int:
    started_s = start_time_s(folder)
    return round(1000 * (time.time() if started_s is None else started_s))


def _folder_uid(folder: RunFolder) -> str:
    return f"folder:{zlib.crc32(str(folder.path).encode()):08x}"


def _noted_run(client: MlflowClient, run_id: Any, uid: str, folder: RunFolder) -> Run | None:
    """Return the run if it is on this server and belongs to this record."""
    from mlflow.exceptions import MlflowException

    if not isinstance(run_id, str) or not run_id:
        return None
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code in _NOT_FOUND:
            return None
        raise
    known = tags.uid_of(run)
    if known is None or known == uid:
        return run
    if known == _folder_uid(folder):  # shipped before its record contained an id
        client.set_tag(run_id, tags.UID, uid)
        return client.get_run(run_id)
    return None


def _experiment(client: MlflowClient, tracking_uri: str, name: Any, notes: list[str]) -> str:
    from mlflow.exceptions import MlflowException

    name = str(name or DEFAULT_EXPERIMENT)[:500]
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        root = artifact_root(tracking_uri)
        try:
            return client.create_experiment(name, artifact_location=root.as_uri() if root else None)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            experiment = client.get_experiment_by_name(name)  # another shipper created it at the same moment
    assert experiment is not None
    _restore_experiment(client, experiment.experiment_id, notes)
    return experiment.experiment_id


def _restore_experiment(client: MlflowClient, experiment_id: str, notes: list[str]) -> None:
    experiment = client.get_experiment(experiment_id)
    if experiment.lifecycle_stage == "deleted":
        client.restore_experiment(experiment_id)
        notes.append(f"The MLflow experiment {experiment.name!r} had been deleted; it was restored.")
