"""The MLflow run of a sweep: concurrent children create only one, and each is linked to it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow_fakes import INFO, write_steps

from stabletrain.record.sweep_folder import SweepFolder
from stabletrain.record.writer import RecordWriter
from stabletrain.tracking import tags
from stabletrain.tracking.runs import find_run
from stabletrain.tracking.store import embedded_uri, open_client
from stabletrain.tracking.sweep_parent import conclude_parent
from stabletrain.vocabulary.statuses import FINISHED

ROOT = str(Path(__file__).parents[2])
SHIP = """
import sys
from stabletrain.record.run_folder import RunFolder
from stabletrain.tracking.shipper import Shipper
from stabletrain.tracking.store import resolve_tracking_uri
Shipper(RunFolder(sys.argv[1]), resolve_tracking_uri(None, sys.argv[1])).ship(ended=True)
"""


def make_sweep(path, num_children):
    sweep = SweepFolder(path)
    sweep.path.mkdir(parents=True)
    sweep.update(uid="uid-of-sweep", command="python -m stabletrain -m", experiment_name="demo", started_ms=1000)
    for number in range(num_children):
        folder = sweep.child(number)
        writer = RecordWriter(folder.events)
        writer.write_info(INFO | {"run_uid": f"uid-{number}"})
        write_steps(writer, range(3))
        writer.close()
        folder.update_summary(status=FINISHED, verdict="healthy", metrics={})
    return sweep


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    """A sweep whose four children were shipped to a new store by four processes at once, and a client of that store."""
    sweep = make_sweep(tmp_path_factory.mktemp("sweeps") / "runs/sweep", 4)
    environment = {**os.environ, "PYTHONPATH": ROOT}
    environment.pop("MLFLOW_TRACKING_URI", None)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SHIP, str(sweep.child(i).path)], env=environment, stderr=subprocess.PIPE
        )
        for i in range(4)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=200)
        assert process.returncode == 0, errors.decode()
    return sweep, open_client(embedded_uri(sweep.path.parent))


@pytest.mark.slow
def test_four_children_that_come_together_make_one_store_one_experiment_one_parent(shipped):
    sweep, client = shipped
    assert (sweep.path.parent / "mlflow.db").is_file()
    assert not list(sweep.path.glob("mlflow.db"))
    experiment = client.get_experiment_by_name("demo")
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [r for r in runs if r.data.tags[tags.UID] == "uid-of-sweep"]
    children = {r.data.tags[tags.UID]: r.data.tags[tags.PARENT] for r in runs if r is not parent}
    assert children == {f"uid-{i}": parent.info.run_id for i in range(4)}
    assert parent.info.run_name == "sweep"
    assert parent.info.status == "RUNNING"
    assert tags.PARENT not in parent.data.tags


def test_the_parent_ends_with_the_table_and_the_files(shipped):
    sweep, client = shipped
    uri = embedded_uri(sweep.path.parent)
    run_id = conclude_parent(sweep, uri, "| child |", is_done=False)
    run = client.get_run(run_id)
    assert (run.info.status, run.data.tags["mlflow.note.content"]) == ("FAILED", "| child |")
    assert [f.path for f in client.list_artifacts(run_id)] == ["sweep.json"]
    assert conclude_parent(sweep, uri, "| child |", is_done=True) == run_id
    assert client.get_run(run_id).info.status == "FINISHED"


def test_a_sweep_that_nobody_carried_over_has_no_parent_to_end(shipped, tmp_path):
    sweep, _ = shipped
    other = make_sweep(tmp_path / "runs/other", 0)
    other.update(uid="another")
    assert conclude_parent(other, embedded_uri(sweep.path.parent), "", is_done=True) is None


def test_a_run_on_its_own_has_no_parent(shipped, tmp_path):
    sweep, client = shipped
    folder = SweepFolder(tmp_path).child(7)
    folder.path.mkdir()
    run = find_run(
        client, embedded_uri(sweep.path.parent), folder, {"run_uid": "alone", "experiment_name": "demo"},
        experiment_name=None, run_name=None, known_id=None, notes=[],
    )  # fmt: skip
    assert tags.PARENT not in run.data.tags
