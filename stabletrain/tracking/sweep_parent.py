"""The MLflow run of a sweep: the first child that is shipped creates it, the others find it and link to it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from filelock import FileLock

from stabletrain.record.run_folder import RunFolder
from stabletrain.record.sweep_folder import SweepFolder, sweep_of
from stabletrain.tracking import tags
from stabletrain.tracking.store import open_client, quiet

if TYPE_CHECKING:
    from mlflow import MlflowClient

_MAX_NOTE = 7500  # a tag holds 8,000 characters


def parent_tag(client: MlflowClient, experiment_id: str, folder: RunFolder) -> dict[str, str]:
    """Return the tag that links a run to its sweep; empty for a run that is not part of one."""
    sweep = sweep_of(folder.path)
    return {tags.PARENT: _find_parent(client, experiment_id, sweep)} if sweep else {}


def _find_parent(client: MlflowClient, experiment_id: str, sweep: SweepFolder) -> str:
    """Return the id of the sweep's run; a lock ensures that concurrent children create it only once."""
    about = sweep.read()
    with FileLock(sweep.lock):
        run = tags.find_by_uid(client, experiment_id, about["uid"])
        if run is not None:
            if run.info.lifecycle_stage == "deleted":
                client.restore_run(run.info.run_id)
            return tags.upgrade(client, run).info.run_id
        own = {tags.UID: about["uid"], tags.COMMAND: about["command"], tags.SOURCE_TYPE: "LOCAL"}
        run = client.create_run(experiment_id, about["started_ms"], tags=own, run_name=sweep.path.name[:250])
        return run.info.run_id


def conclude_parent(sweep: SweepFolder, tracking_uri: str, note: str, *, is_done: bool) -> str | None:
    """End the sweep's run: upload its table and files, and set its status.

    Args:
        sweep: The sweep, all of whose children have ended.
        tracking_uri: The store that its children were shipped to.
        note: Table of its children, as Markdown.
        is_done: Whether every child finished.

    Returns:
        The id of the run, or None if no child was shipped.

    Raises:
        Unreachable: The server does not answer.
    """
    about = sweep.read()
    with quiet():
        client = open_client(tracking_uri)
        experiment = client.get_experiment_by_name(str(about["experiment_name"])[:500])
        run = tags.find_by_uid(client, experiment.experiment_id, about["uid"]) if experiment else None
        if run is None or run.info.lifecycle_stage == "deleted":
            return None
        run_id = run.info.run_id
        client.set_tag(run_id, tags.NOTE, note[:_MAX_NOTE])
        for path in (sweep.file, sweep.path / "search.json", sweep.report):
            if path.is_file():
                client.log_artifact(run_id, str(path))
        client.set_terminated(run_id, "FINISHED" if is_done else "FAILED", end_time=round(1000 * time.time()))
    return run_id
