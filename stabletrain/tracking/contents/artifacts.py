"""Files of a run that has ended, as MLflow artifacts: each is uploaded once, and again only if it changed."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import google_crc32c

from stabletrain.record.reader import event_files
from stabletrain.record.run_folder import EVENTS, RunFolder
from stabletrain.tracking import tags
from stabletrain.tracking.contents.layer_table import FILE_NAME, mark_as_table

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

LogModel = Callable[[str, str], None]  # run_id, tracking_uri


def ship_artifacts(
    client: MlflowClient, run: Run, folder: RunFolder, summary: Mapping[str, Any], worst_layers: str = ""
) -> tuple[list[str], list[str]]:
    """Upload the run's files.

    Args:
        client: A client of the tracking server.
        run: The MLflow run.
        folder: The run's folder.
        summary: Content of `summary.json` on the server.
        worst_layers: Table of the most conspicuous layers as JSON; empty if there are none.

    Returns:
        The names of the uploaded files, and of those that the server had already.
    """
    run_id = run.info.run_id
    there: dict[str, str] = json.loads(run.data.tags.get(tags.ARTIFACTS, "{}"))
    uploaded, already = [], []
    with tempfile.TemporaryDirectory(prefix="stabletrain-") as temporary:
        summary_file = Path(temporary, folder.summary.name)
        summary_file.write_text(json.dumps(summary, indent=2) + "\n")
        table_file = Path(temporary, FILE_NAME)
        if worst_layers:
            table_file.write_text(worst_layers)
            mark_as_table(client, run)
        for path in (folder.config, folder.findings, summary_file, table_file, folder.report, folder.events):
            if not path.exists():
                continue
            name = EVENTS if path == folder.events else path.name
            digest = _digest(*(event_files(path) if path == folder.path else [path]))
            if there.get(name) == digest:
                already.append(name)
                continue
            if path == folder.path:  # a log folder of Lightning, with checkpoints and files of others in it
                for file in event_files(path):
                    client.log_artifact(run_id, str(file), name)
            elif path.is_dir():
                client.log_artifacts(run_id, str(path), name)
            else:
                client.log_artifact(run_id, str(path))
            there[name] = digest
            uploaded.append(name)
    if uploaded:
        client.set_tag(run_id, tags.ARTIFACTS, json.dumps(there))
    return uploaded, already


def ship_model(
    client: MlflowClient, run: Run, folder: RunFolder, log_model: LogModel, tracking_uri: str, notes: list[str]
) -> bool:
    """Log the model of the best checkpoint through `log_model`, once per checkpoint; return whether it was logged.

    A failure is not raised but reported in `notes`: only the model is then missing on the server.
    """
    best = folder.checkpoints / "best.ckpt"
    if not best.is_file():
        return False
    digest = _digest(best)
    if run.data.tags.get(tags.MODEL) == digest:
        return False
    try:
        log_model(run.info.run_id, tracking_uri)
    except Exception as error:
        notes.append(f"The best model could not be logged to MLflow: {error}")
        return False
    client.set_tag(run.info.run_id, tags.MODEL, digest)
    return True


def _digest(*paths: Path) -> str:
    """Return a checksum of files, or of the names and contents of folders."""
    checksum = google_crc32c.Checksum()
    for file in [f for path in paths for f in (sorted(path.rglob("*")) if path.is_dir() else [path]) if f.is_file()]:
        checksum.update(file.name.encode())
        with file.open("rb") as content:
            while chunk := content.read(1 << 20):
                checksum.update(chunk)
    return checksum.hexdigest().decode()
