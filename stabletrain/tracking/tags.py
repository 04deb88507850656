"""Names of the MLflow tags that stabletrain writes, and the upgrade of runs that carry former names.

MLflow's pages list a run's tags except those whose names begin with `mlflow.`: what the shipper keeps for itself is
named so, and the list shows only what a person reads (checked on the pages of MLflow 3.17.2).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

# Shown in the list of tags.
VERDICT = "stabletrain.verdict"
COMMAND = "stabletrain.command"
GIT_DIRTY = "stabletrain.git_dirty"
VERSIONS = "stabletrain.versions"

# State of the shipper, not shown.
UID = "mlflow.stabletrain.uid"  # identifies the record that the run belongs to
POSITION = "mlflow.stabletrain.shipped"  # how far its event files were shipped
ARTIFACTS = "mlflow.stabletrain.artifacts"  # checksums of the shipped files
MODEL = "mlflow.stabletrain.model"  # checksum of the checkpoint whose model was logged
FORMER = {
    UID: "stabletrain.uid",
    POSITION: "stabletrain.shipped",
    ARTIFACTS: "stabletrain.artifacts",
    MODEL: "stabletrain.model",
}

# Defined by MLflow.
NOTE = "mlflow.note.content"  # the description, as Markdown
PARENT = "mlflow.parentRunId"
USER = "mlflow.user"
SOURCE_NAME = "mlflow.source.name"
SOURCE_TYPE = "mlflow.source.type"
GIT_COMMIT = "mlflow.source.git.commit"
LOGGED_IMAGES = "mlflow.loggedImages"
LOGGED_ARTIFACTS = "mlflow.loggedArtifacts"  # lists the files that are shown as tables
DATA_CONTEXT = "mlflow.data.context"  # of a data set: train, val or test
SAVED_VIEW = "mlflow.sharedViewState"  # of an experiment, followed by the view's id

ALL_RUNS = 3  # mlflow.entities.ViewType.ALL: deleted runs too


def find_by_uid(client: MlflowClient, experiment_id: str, uid: str) -> Run | None:
    """Return the first run of an experiment that belongs to a record or a sweep, deleted or not."""
    for name in (UID, FORMER[UID]):
        query = f"tags.`{name}` = '{uid}'"
        if found := client.search_runs([experiment_id], query, run_view_type=ALL_RUNS, max_results=10):
            return min(found, key=lambda run: (run.info.start_time, run.info.run_id))
    return None


def uid_of(run: Run) -> str | None:
    """Return the id of the record that a run belongs to, under its present or former name."""
    return run.data.tags.get(UID, run.data.tags.get(FORMER[UID]))


def upgrade(client: MlflowClient, run: Run) -> Run:
    """Move the shipper's state of an earlier version to the present names, and return the run as it is then.

    A tag is written under its new name before the former one is deleted, so that no state is lost in between.
    """
    found = {new: old for new, old in FORMER.items() if old in run.data.tags}
    for new, old in found.items():
        if new not in run.data.tags:
            client.set_tag(run.info.run_id, new, run.data.tags[old])
        client.delete_tag(run.info.run_id, old)
    return client.get_run(run.info.run_id) if found else run
