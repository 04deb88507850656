"""Time to open MLflow's page of an experiment with a thousand runs.

One record is shipped as training ships it; its rows in the store are then copied under new ids, since shipping a
thousand records would take an hour. The store is served with the command of `stabletrain ui`. Measured are the
requests that the page makes, and the time until its table is shown in Chromium, if that is installed.

    python benchmarks/many_runs.py                      1,000 runs with 600 curves each; two minutes
    python benchmarks/many_runs.py --runs 100 --layers 20
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import sqlite3
import statistics
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from stabletrain.record.run_folder import RunFolder
from stabletrain.record.writer import RecordWriter
from stabletrain.signal.snapshot import LayerStatistics, Snapshot
from stabletrain.tracking.guarded_process import start_guarded, stop_guarded
from stabletrain.tracking.shipper import Shipper
from stabletrain.tracking.store import artifact_root, database_of, embedded_uri
from stabletrain.vocabulary import metric_names as names
from stabletrain.vocabulary.finding import Finding
from stabletrain.vocabulary.signals import UPDATE, WEIGHT
from stabletrain.vocabulary.statuses import FINISHED

HOST = "127.0.0.1"
EXPERIMENT = "many"
POINTS = 2  # of each curve: the requests read only the last one
PAGE = 100  # runs that the page asks for at once
# The tables that hold one row per run, metric, param and tag, and the column that holds the run's id.
TABLES = {
    "runs": "run_uuid",
    "latest_metrics": "run_uuid",
    "metrics": "run_uuid",
    "params": "run_uuid",
    "tags": "run_uuid",
}
CHROMIUM = "/usr/bin/chromium"


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description="Time to open MLflow's page of many runs")
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--layers", type=int, default=200, help="200 layers have 600 curves, the most that is shipped")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="stabletrain-many-") as folder:
        uri = embedded_uri(folder)
        began = time.perf_counter()
        experiment_id, num_curves = make_store(Path(folder), uri, options.runs, options.layers)
        size = database_of(uri).stat().st_size / 1e6
        print(
            f"{options.runs:,} runs of {num_curves} curves: {size:.0f} MB, made in {time.perf_counter() - began:.0f} s"
        )
        with served(uri) as base:
            for title, measure in {
                "the experiment": lambda: timed(lambda: post(base, "experiments/search", {"max_results": 25})),
                f"first {PAGE} runs": lambda: timed(lambda: search(base, experiment_id)),
                "the table in Chromium": lambda: open_page(base, experiment_id),
            }.items():
                with suppress(ImportError, FileNotFoundError):
                    print_row(title, [measure() for _ in range(options.repeats)])


def make_store(folder: Path, uri: str, num_runs: int, num_layers: int) -> tuple[str, int]:
    """Ship one run and copy it; return the id of its experiment and its number of curves."""
    run = write_record(folder / "run-0", num_layers)
    result = Shipper(run, uri).ship()
    assert result.run_id is not None
    assert result.experiment_id is not None
    connection = sqlite3.connect(database_of(uri))
    connection.execute("PRAGMA synchronous = OFF")
    with connection:
        for index in range(1, num_runs):
            copy_run(connection, result.run_id, index)
        (num_curves,) = connection.execute(
            "SELECT count(*) FROM latest_metrics WHERE run_uuid = ?", (result.run_id,)
        ).fetchone()
    connection.close()
    return result.experiment_id, num_curves


def write_record(path: Path, num_layers: int) -> RunFolder:
    """Write a small record of a run that has ended."""
    folder, writer = RunFolder(path), RecordWriter(RunFolder(path).events)
    parameters = {f"group.setting_{k}": k for k in range(30)}
    writer.write_info({"run_uid": "0", "experiment_name": EXPERIMENT, "command": "train", "parameters": parameters})
    layers = [f"L{index:03d}.block.weight" for index in range(num_layers)]
    for step in range(POINTS):
        writer.write_scalars(step, {names.TRAIN_LOSS: 1.0, names.VAL_LOSS: 1.0, names.NORM_TOTAL: 1.0})
        signals: dict[str, Sequence[LayerStatistics]] = {
            s: tuple(LayerStatistics(n, 100, 0.1, 0) for n in layers) for s in (WEIGHT, UPDATE)
        }
        writer.write_snapshot(Snapshot(step, tuple(LayerStatistics(n, 100, 0.1, 0) for n in layers), signals))
    writer.close()
    advice, overrides = "The gradient vanishes on its way to the first layers. " * 3, ["init=he"]
    folder.write_findings([Finding("vanishing", "critical", layers[0], 0, 1, {"ratio": 1e-5}, advice, overrides)])
    folder.update_summary(status=FINISHED, verdict="vanishing", metrics={names.VAL_LOSS: 1.0})
    return folder


def copy_run(connection: sqlite3.Connection, run_id: str, index: int) -> None:
    """Copy the rows of a run under a new id."""
    new = {"run_uuid": uuid.UUID(int=index).hex, "name": f"run-{index}"}
    for table, key in TABLES.items():
        columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
        values = [
            f":{column}" if column in new and (table == "runs" or column == key) else column for column in columns
        ]
        connection.execute(
            f"INSERT INTO {table} ({', '.join(columns)}) SELECT {', '.join(values)} FROM {table} WHERE {key} = :old",
            new | {"old": run_id},
        )
    connection.execute("UPDATE runs SET start_time = start_time + ? WHERE run_uuid = ?", (index, new["run_uuid"]))


@contextmanager
def served(uri: str) -> Iterator[str]:
    """Serve the store as `stabletrain ui` does; yield the address."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    root = artifact_root(uri)
    assert root is not None
    command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", uri, "--default-artifact-root", root.as_uri()]
    environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    base = f"http://{HOST}:{port}"
    with tempfile.TemporaryFile() as log:
        server = start_guarded(command, log, environment)
        try:
            while not is_up(base):
                assert server.poll() is None, "the server did not start"
                time.sleep(0.2)
            yield base
        finally:
            stop_guarded(server)


def is_up(base: str) -> bool:
    """Return whether the server answers."""
    with suppress(OSError), urllib.request.urlopen(f"{base}/health", timeout=5):
        return True
    return False


def search(base: str, experiment_id: str) -> dict[str, Any]:
    """Ask for the newest runs, as the page does."""
    order = ["attributes.start_time DESC"]
    answer = post(base, "runs/search", {"experiment_ids": [experiment_id], "max_results": PAGE, "order_by": order})
    assert len(answer["runs"]) > 0
    return answer


def post(base: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """Send a request to the interface that the page uses."""
    request = urllib.request.Request(
        f"{base}/ajax-api/2.0/mlflow/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer)


def open_page(base: str, experiment_id: str) -> float:
    """Open the list of runs in a new browser; return the seconds until its first row is there."""
    from playwright.sync_api import sync_playwright

    if shutil.which(CHROMIUM) is None:
        raise FileNotFoundError(CHROMIUM)
    with sync_playwright() as api:
        browser = api.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.set_default_timeout(120_000)
        began = time.perf_counter()
        page.goto(f"{base}/#/experiments/{experiment_id}/runs?workflowType=machine_learning&compareRunsMode=TABLE")
        page.get_by_text("vanishing").or_(page.get_by_role("link", name="run-")).first.wait_for()
        seconds = time.perf_counter() - began
        browser.close()
    return seconds


def timed(call: Callable[[], Any]) -> float:
    """Return the seconds that a call takes."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def print_row(title: str, seconds: list[float]) -> None:
    """Print the first time, for which nothing is cached, and the median with the range."""
    median, lowest, highest = statistics.median(seconds), min(seconds), max(seconds)
    print(f"{title:<24} first {seconds[0]:5.2f} s   median {median:5.2f} s  ({lowest:.2f} to {highest:.2f})")


if __name__ == "__main__":
    main()
