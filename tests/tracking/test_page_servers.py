import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from stabletrain.errors import RequestError
from stabletrain.tracking.page_servers import serve
from stabletrain.tracking.run_links import link_runs

SCRIPT = """
import sys
from stabletrain.tracking.page_servers import serve
say = lambda line: print(line, flush=True)
ports = dict(zip(("mlflow_port", "tensorboard_port", "live_port"), map(int, sys.argv[3:6]), strict=True))
serve(sys.argv[1], sys.argv[2], **ports, only=sys.argv[6] if len(sys.argv) > 6 else None, say=say)
"""


def free_ports(count):
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def answers(port):
    with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as page:
        return page.status == 200
    return False


@contextmanager
def serving(uri, logdir, *words):
    ports = free_ports(3)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", SCRIPT, uri, str(logdir), *map(str, ports), *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        yield process, ports
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_without_a_store_the_other_pages_are_served(tmp_path):
    run = tmp_path / "one run"
    (run / "tensorboard").mkdir(parents=True)
    (tmp_path / "two/tensorboard").mkdir(parents=True)
    with serving(f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path, run.name) as (process, ports):
        lines = [process.stdout.readline().strip() for _ in range(4)]
        assert lines == [
            f"MLflow has no store yet: no run has written to {tmp_path / 'mlflow.db'}.",
            f"Live page    http://127.0.0.1:{ports[2]}/run/one%20run",
            f"TensorBoard  http://127.0.0.1:{ports[1]}/",
            "Ctrl-C stops them.",
        ]
        assert [answers(port) for port in ports] == [False, True, True]
        with urllib.request.urlopen(f"http://127.0.0.1:{ports[2]}/runs.json", timeout=30) as answer:
            assert json.load(answer)["names"] == ["one run"]
    deadline = time.monotonic() + 30
    while any(answers(port) for port in ports) and time.monotonic() < deadline:  # killed: the guards stop the servers
        time.sleep(0.1)
    assert [answers(port) for port in ports] == [False, False, False]


@pytest.mark.parametrize("key", ["mlflow_port", "tensorboard_port", "live_port"])
def test_a_taken_port_is_told_with_a_free_one(runs, uri, key):
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        ports = dict(zip(("mlflow_port", "tensorboard_port", "live_port"), free_ports(3), strict=True)) | {key: taken}
        with pytest.raises(RequestError) as caught:
            serve(uri, runs, **ports)
    assert (caught.value.key, caught.value.found) == (f"ui.{key}", taken)
    command, _, port = caught.value.command.rpartition("=")
    assert command == f"stabletrain ui ui.{key}"
    assert int(port) != taken


def test_all_pages_answer_and_end_with_it(runs, uri):
    with serving(uri, runs) as (process, ports):
        lines = [process.stdout.readline().strip() for _ in range(4)]
        assert lines == [
            f"Live page    http://127.0.0.1:{ports[2]}/",
            f"TensorBoard  http://127.0.0.1:{ports[1]}/",
            f"MLflow       http://127.0.0.1:{ports[0]}/#/experiments?workflowType=machine_learning",
            "Ctrl-C stops them.",
        ]
        assert [answers(port) for port in ports] == [True, True, True]
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        time.sleep(0.2)
        assert [answers(port) for port in ports] == [False, False, False]


def test_tensorboard_is_shown_each_run_once_and_new_ones_too(tmp_path):
    shown = tmp_path / "shown"
    shown.mkdir()
    (tmp_path / "runs/one/tensorboard").mkdir(parents=True)
    (tmp_path / "runs/mlartifacts/1/artifacts/tensorboard").mkdir(parents=True)
    link_runs(tmp_path / "runs", shown)
    assert [p.name for p in shown.iterdir()] == ["one"]
    (tmp_path / "runs/two/tensorboard").mkdir(parents=True)
    for _ in range(2):
        link_runs(tmp_path / "runs", shown)
    assert {p.name: p.resolve() for p in shown.iterdir()} == {
        name: tmp_path / "runs" / name / "tensorboard" for name in ("one", "two")
    }
