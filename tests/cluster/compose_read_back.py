"""Read a run of the compose file back through the MLflow server: metrics, images, artifacts, tags, and no secret.

usage: python compose_read_back.py RUN_NAME COMMIT; the environment as for compose, with MLFLOW_TRACKING_URI
"""

import os
import sys
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

from mlflow import MlflowClient

SECRETS = ("POSTGRES_PASSWORD", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_FLASK_SERVER_SECRET_KEY")


def files_of(client: MlflowClient, run_id: str, path: str | None = None) -> list[str]:
    found = []
    for entry in client.list_artifacts(run_id, path):
        found += files_of(client, run_id, entry.path) if entry.is_dir else [entry.path]
    return found


def main(run_name: str, commit: str) -> None:
    uri = os.environ["MLFLOW_TRACKING_URI"]
    try:
        urllib.request.urlopen(f"{uri}/api/2.0/mlflow/experiments/get?experiment_id=0", timeout=10)
        raise AssertionError("the server answers without a password")
    except urllib.error.HTTPError as error:
        if error.code != 401:
            raise

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("stabletrain")
    runs = client.search_runs([experiment.experiment_id], f"attributes.run_name = '{run_name}'")
    assert len(runs) == 1, len(runs)
    run = client.get_run(runs[0].info.run_id)
    assert run.info.status == "FINISHED", run.info.status
    assert run.data.tags["mlflow.source.git.commit"] == commit
    assert run.data.params["model"] == "rnn"
    assert run.data.params["clip"] == "norm"
    losses = [m.value for m in client.get_metric_history(run.info.run_id, "train/loss")]
    assert losses[-1] < losses[0], losses

    files = files_of(client, run.info.run_id)
    images = [f for f in files if f.startswith("images/") and f.endswith(".png")]
    assert images
    assert {"config.yaml", "summary.json", "findings.json", "report.html"} <= set(files), files
    with tempfile.TemporaryDirectory() as folder:
        client.download_artifacts(run.info.run_id, "", folder)
        image = Path(folder, images[0])
        assert image.read_bytes().startswith(b"\x89PNG")
        told = (
            b"".join(p.read_bytes() for p in Path(folder).rglob("*") if p.is_file())
            + repr(run.to_dictionary()).encode()
        )
    for name in SECRETS:
        assert os.environ[name].encode() not in told, f"{name} is told"
    print(
        f"read back {len(run.data.metrics)} metrics ({len(losses)} points of train/loss), {len(images)} images, "
        f"{len(files)} artifacts, {len(run.data.tags)} tags, {len(run.data.params)} params; no secret in them"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
